// What is asked of the model, and how its answers are taken up.

import * as api from "./api.js";
import { push } from "./readings.js";
import { changed, isWriting, set, state } from "./state.js";
import { add, choose, path, planted, textOf, upTo } from "./tree.js";

/** Say something after the last turn, or, in the place of an earlier one, beside it. */
export function say(text, instead = null) {
  if (!text.trim() || isWriting()) return;
  const parent = instead ? instead.parent : (path(state.tree).at(-1)?.id ?? 0);
  const turn = add(state.tree, parent, { role: "user", text: text.trim() });
  set({ notes: [], ...(instead ? { editing: null } : { draft: "" }) });
  answer(turn);
}

/** Another answer to what this one answers: not by the seed that is set where that would give the same one once more. */
export function again(turn) {
  if (isWriting()) return;
  const { settings, tree } = state;
  const asked = tree.nodes[turn.parent];
  const same = (one) =>
    !one.plain && !one.error && JSON.stringify(one.steer) === JSON.stringify(settings.steer) &&
    ["seed", "temperature", "longest", "system"].every((name) => one[name] === settings[name]);
  answer(asked, asked.children.some((id) => same(tree.nodes[id])) ? null : settings.seed);
}

/** Answer a turn, as the settings are: once, or plain and steered with the same seed; null: a new one. */
function answer(turn, seed = state.settings.seed) {
  const { compare } = state.settings;
  const drawn = seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 2 ** 31;
  const pair = compare ? `pair-${state.tree.nodes.length}` : null;
  if (compare) write(turn, drawn, pair, true);
  write(turn, drawn, pair, false); // the later one is gone on with
}

export function stop() {
  for (const turn of state.tree.nodes) turn.control?.abort();
}

export function goOn(turn) {
  choose(state.tree, turn);
  set({ pointed: null });
}

export function restart() {
  stop();
  set({ tree: planted(), editing: null, pointed: null });
}

async function write(turn, seed, pair, plain) {
  const { known, settings } = state;
  const steer = plain ? {} : { ...settings.steer };
  const shifts = known.data.map(({ trait }) => [trait, plain ? 0 : push(known, steer, trait)]);
  const made = add(state.tree, turn.id, {
    role: "assistant", pair, plain, steer, seed, temperature: settings.temperature, longest: settings.longest,
    system: settings.system, push: Object.fromEntries(shifts), prompt: {}, pieces: [], summary: null,
    steering: [], warnings: [], alarms: null, ending: null, error: null, control: new AbortController(),
  });
  changed();
  try {
    for await (const chunk of api.chat(request(made), made.control.signal)) {
      take(made, chunk);
      changed();
    }
  } catch (error) {
    if (error.name === "AbortError") made.ending = "stopped";
    else made.error = error.message;
    if (error.status === 401) state.asksKey = true;
  } finally {
    made.control = null;
    changed();
  }
}

/** What the server is asked for an answer. */
export function request(made) {
  const { known } = state;
  const said = upTo(state.tree, state.tree.nodes[made.parent]).map(({ role, ...turn }) => ({ role, content: textOf(turn) }));
  const messages = made.system.trim() ? [{ role: "system", content: made.system.trim() }, ...said] : said;
  const persona = { steer: Object.fromEntries(known.data.map(({ trait }) => [trait, made.steer[trait] ?? 0])) };
  if (made.plain) {
    for (const bound of ["cap", "floor"]) {
      if (known.default[bound]) persona[bound] = Object.fromEntries(Object.keys(known.default[bound]).map((t) => [t, null]));
    }
    if (known.default.ablate) persona.ablate = [];
  }
  return {
    model: "default", messages, temperature: made.temperature, max_tokens: made.longest, seed: made.seed,
    logprobs: true, top_logprobs: 4, stream: true, ...(known.data.length && known.client_steering && { persona }),
  };
}

function take(made, { choices: [choice], persona = {} }) {
  if (persona.prompt) Object.assign(made, { prompt: persona.prompt, steering: persona.steering });
  if (persona.alarms !== undefined) made.alarms = persona.alarms;
  if (persona.warnings) made.warnings = persona.warnings;
  if (persona.summary) made.summary = persona.summary;
  if (choice.finish_reason) made.ending = choice.finish_reason;
  const likely = choice.logprobs?.content ?? [];
  if (choice.delta.content || likely.length) {
    made.pieces.push({ text: choice.delta.content ?? "", readings: persona.tokens ?? [], likely });
  }
}
