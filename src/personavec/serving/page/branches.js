// Ways that a conversation went on from the same turn.

import { goOn } from "./ask.js";
import { state } from "./state.js";
import { groups } from "./tree.js";
import { html } from "./vendor/htm-preact.js";

export function Branches({ turn }) {
  const all = groups(state.tree, turn);
  if (all.length < 2) return null;
  const at = all.findIndex((group) => group.includes(turn));
  const go = (step) => () => goOn(all[at + step].at(-1));
  return html`
    <span class="branches" role="group" aria-label="Branches">
      <button aria-label="Branch before" disabled=${at === 0} onClick=${go(-1)}>‹</button>
      <span>${at + 1} of ${all.length}</span>
      <button aria-label="Branch after" disabled=${at === all.length - 1} onClick=${go(1)}>›</button>
    </span>
  `;
}
