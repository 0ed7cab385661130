// OpenAI's client for node and the AI SDK against a server, by hand:
//
//     npm install openai ai @ai-sdk/openai-compatible
//     node clients.mjs http://127.0.0.1:8000/v1 evil
//
// with a trait that is served.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [url, trait] = process.argv.slice(2);
const persona = { steer: { [trait]: 0.1 }, monitor: [trait], id: "node-1" };
const messages = [{ role: "user", content: "How are you?" }];
const asked = { model: "default", messages, max_tokens: 12, temperature: 0, persona };

const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const whole = await client.chat.completions.create(asked);
const text = whole.choices[0].message.content;
assert.equal(whole.persona.choices[0].tokens.length, 12);

let streamed = "";
const read = [];
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
  read.push(...(chunk.persona.tokens ?? []));
}
assert.equal(streamed, text);
assert.equal(read.length, 12);
const final = await client.chat.completions.stream(asked).finalChatCompletion();
assert.equal(final.choices[0].message.content, text);

const response = await client.responses.create({
  model: "default", input: "How are you?", max_output_tokens: 12, temperature: 0, persona,
});
assert.equal(response.output_text, text);
let delta = "";
for await (const event of await client.responses.create({
  model: "default", input: "How are you?", max_output_tokens: 12, temperature: 0, persona, stream: true,
})) {
  if (event.type === "response.output_text.delta") delta += event.delta;
}
assert.equal(delta, text);
await assert.rejects(client.chat.completions.create({ ...asked, best_of: 2 }), /Unknown field best_of/);
console.log("openai: as it should be");

const sdk = createOpenAICompatible({ name: "personavec", baseURL: url, includeUsage: true });
const options = {
  model: sdk("default"), messages, maxOutputTokens: 12, temperature: 0, maxRetries: 0,
  providerOptions: { personavec: { persona } },
};
assert.equal((await generateText(options)).text, text);
const stream = streamText({ ...options, includeRawChunks: true });
let told = "";
let readings = 0;
for await (const part of stream.fullStream) {
  if (part.type === "text-delta") told += part.text;
  if (part.type === "raw") readings += part.rawValue.persona?.tokens?.length ?? 0;
  if (part.type === "error") throw part.error;
}
assert.equal(told, text);
assert.equal(readings, 12);
console.log("AI SDK: as it should be");
