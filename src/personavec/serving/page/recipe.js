// Settings as others can use them: a link, a command, a request.

import { hasKey } from "./api.js";
import { request } from "./ask.js";
import { state } from "./state.js";
import { upTo } from "./tree.js";

/** The settings as the end of an address. */
export function toHash({ steer, system, temperature, longest, seed, compare }, trait, draft) {
  const said = new URLSearchParams();
  const pushed = Object.entries(steer).filter(([, coefficient]) => coefficient !== 0);
  said.set("steer", pushed.map(([name, coefficient]) => `${name}:${coefficient}`).join(","));
  said.set("temperature", temperature);
  said.set("longest", longest);
  if (trait) said.set("trait", trait);
  if (seed !== null) said.set("seed", seed);
  if (system.trim()) said.set("system", system.trim());
  if (compare) said.set("compare", "1");
  if (draft.trim()) said.set("say", draft.trim());
  return `#${said}`;
}

/** What an address says, over the settings that there are. What cannot be is left out and told. */
export function fromHash(hash, { known, settings, trait }) {
  const said = new URLSearchParams(hash.slice(1));
  if (![...said].length) return {};
  const notes = [];
  const names = known.data.map((vector) => vector.trait);
  const found = { ...settings, compare: said.get("compare") === "1", system: said.get("system") ?? "" };
  found.steer = Object.fromEntries(names.map((name) => [name, 0]));
  for (const item of (said.get("steer") ?? "").split(",").filter(Boolean)) {
    const at = item.lastIndexOf(":");
    const [name, coefficient] = [item.slice(0, at), Number(item.slice(at + 1))];
    if (names.includes(name) && Number.isFinite(coefficient)) found.steer[name] = coefficient;
    else notes.push(`The link steers by ${item}, which is not served here.`);
  }
  if (!known.client_steering) {
    const differs = names.some((name) => found.steer[name] !== settings.steer[name]);
    if (found.compare || (said.get("steer") && differs)) notes.push("The link steers, which this server does not let requests do.");
    Object.assign(found, { steer: settings.steer, compare: false });
  }
  const number = (name, least, most, whole) => {
    const value = Number(said.get(name) ?? NaN);
    return value >= least && value <= most && (!whole || Number.isInteger(value)) ? value : null;
  };
  found.temperature = number("temperature", 0, 2, false) ?? settings.temperature;
  found.longest = number("longest", 1, 100_000, true) ?? settings.longest;
  found.seed = number("seed", 0, 2 ** 31, true);
  const chosen = names.includes(said.get("trait")) ? said.get("trait") : trait;
  return { settings: found, trait: chosen, draft: said.get("say") ?? "", notes };
}

const quoted = (text) => (/^[\w./:=+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** The same answer by `personavec generate`; null where it is none to a first message. */
export function command(made) {
  const turns = upTo(state.tree, made);
  if (turns.length !== 2) return null;
  const { known } = state;
  const options = known.load_as === "default" ? [] : [["--model", known.load_as]];
  const files = (option, numbers) => {
    for (const [trait, number] of Object.entries(numbers ?? {})) {
      const vector = known.data.find((one) => one.trait === trait);
      const file = vector.ready ? trait : `${trait}.safetensors`;
      if (option !== "steer" || number) options.push([`--${option}`, number === null ? file : `${file}=${number}`]);
    }
  };
  files("steer", made.steer);
  if (!made.plain) for (const option of ["cap", "floor", "ablate"]) files(option, known.default[option]);
  if (known.layers !== "best") options.push(["--layers", String(known.layers)]);
  if (known.positions !== "response") options.push(["--positions", known.positions]);
  if (made.system.trim()) options.push(["--system", made.system.trim()]);
  options.push(["--temperature", made.temperature], ["--max-new-tokens", made.longest], ["--seed", made.seed]);
  const words = options.map(([name, value]) => `${name} ${quoted(String(value))}`);
  return ["personavec generate", ...words, "--", quoted(turns[0].text)].join(" "); // a question may begin with a dash
}

/** The same answer by curl. */
export function curl(made) {
  const { stream, logprobs, top_logprobs, ...body } = request(made);
  const where = new URL("v1/chat/completions", location.href.split("#")[0]);
  const key = hasKey() ? ' -H "Authorization: Bearer $PERSONAVEC_API_KEY"' : "";
  return `curl ${where} -H 'Content-Type: application/json'${key} -d ${quoted(JSON.stringify(body))}`;
}
