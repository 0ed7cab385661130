// The server, as it is asked.

let key = ""; // in this page's memory, and nowhere else

export const setKey = (text) => {
  key = text.trim();
};

export const hasKey = () => key !== "";

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refusal(response.status, told?.error?.message ?? `The server answered ${response.status}.`);
}

export const vectors = async () => (await ask("v1/persona/vectors")).json();

/** Chunks of an answer while it is written. */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Refusal(0, "The connection was lost.");
    });
    if (done) throw new Refusal(0, "The answer broke off.");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return;
      if (!event.startsWith("data: ")) continue; // a comment that keeps the connection
      const told = JSON.parse(event.slice(6));
      if (told.error) throw new Refusal(500, told.error.message);
      yield told;
    }
  }
}
