// All that the page knows, and what may be done to it. Whoever shows it asks to be told of changes.

import * as api from "./api.js";
import { path, planted } from "./tree.js";

export const state = {
  known: null, // what the server says of its vectors
  problem: null, // why it does not
  asksKey: false,
  tree: planted(),
  editing: null, // what is written in the place of an earlier turn: turn, text
  pointed: null, // the piece of an answer that is looked at: turn, at, box
  trait: null, // the one that tokens are coloured by
  settings: { steer: {}, system: "", temperature: 0.7, longest: 200, seed: null, compare: false },
  draft: "",
  notes: [],
};

let tell = () => {};
let due = false;

export const onChange = (listener) => {
  tell = listener;
};

/** Show what is now so, at the next frame. */
export function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    tell();
  });
}

export function set(change) {
  Object.assign(state, change);
  changed();
}

export const setting = (change) => set({ settings: { ...state.settings, ...change } });

export const steer = (trait, coefficient) => setting({ steer: { ...state.settings.steer, [trait]: coefficient } });

/** Ask the server for its vectors; settings are the server's own. */
export async function open() {
  try {
    const known = await api.vectors();
    const zeros = Object.fromEntries(known.data.map((vector) => [vector.trait, 0]));
    set({ known, problem: null, asksKey: false, trait: state.trait ?? known.data[0]?.trait ?? null });
    setting({ steer: { ...zeros, ...known.default.steer } });
  } catch (error) {
    set({ asksKey: error.status === 401, problem: error.message });
  }
}

/** Bring a key. */
export function unlock(key) {
  api.setKey(key);
  set({ asksKey: false, problem: null });
}

/** The vector that tokens are coloured by. */
export const chosen = () => state.known.data.find((vector) => vector.trait === state.trait);

/** The last answer of what is gone on with. */
export const latest = () => path(state.tree).findLast((turn) => turn.role === "assistant") ?? null;

export const isWriting = () => state.tree.nodes.some((turn) => turn.control);
