// A conversation as a file.

import { measure } from "./readings.js";
import { state } from "./state.js";
import { path, textOf } from "./tree.js";

/** The conversation as a line of JSON that `personavec monitor` reads; all branches and readings beside the messages. */
function transcript() {
  const { known, tree } = state;
  const turns = path(tree);
  const system = turns.findLast((turn) => turn.system)?.system.trim();
  const messages = turns.map((turn) => ({ role: turn.role, content: textOf(turn) })).filter(({ content }) => content);
  const told = (turn) => {
    if (turn.role === "user") return { id: turn.id, parent: turn.parent, role: turn.role, content: turn.text };
    const { id, parent, role, pair, plain, steer, seed, temperature, longest, push, prompt, pieces, summary, alarms, ending } = turn;
    const measured = Object.fromEntries(known.data.map((vector) => [vector.trait, measure(vector, turn)]));
    return {
      id, parent, role, content: textOf(turn), system: turn.system, pair, plain, steer, seed, temperature, longest, ending, alarms,
      readings: { prompt, tokens: pieces.map(({ text, readings }) => ({ text, readings })), summary, push, measured },
    };
  };
  return JSON.stringify({
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    persona: {
      model: known.model, written: new Date().toISOString(), default: known.default, vectors: known.data,
      gone_on_with: turns.map((turn) => turn.id), turns: tree.nodes.slice(1).map(told),
    },
  });
}

export function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([transcript() + "\n"], { type: "application/jsonl" }));
  link.download = "conversation.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}
