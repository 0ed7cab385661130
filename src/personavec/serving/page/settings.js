// What else an answer is asked for with.

import { setting, state } from "./state.js";
import { html } from "./vendor/htm-preact.js";

export function Settings() {
  const { system, temperature, longest, seed } = state.settings;
  const number = (name, empty) => (event) => {
    const { value, validity } = event.target;
    if (validity.valid) setting({ [name]: value === "" ? empty : Number(value) });
  };
  return html`
    <details class="settings" open=${system !== "" || seed !== null}>
      <summary>Settings</summary>
      <label>System prompt <textarea rows="2" value=${system} onInput=${(event) => setting({ system: event.target.value })}></textarea></label>
      <div class="fields">
        <label>Temperature <input type="number" min="0" max="2" step="0.1" value=${temperature} onChange=${number("temperature", 0.7)} /></label>
        <label>Longest answer <input type="number" min="1" step="1" value=${longest} onChange=${number("longest", 200)} /></label>
        <label>Seed <input type="number" min="0" max="2147483647" step="1" placeholder="new" value=${seed ?? ""} onChange=${number("seed", null)} /></label>
      </div>
    </details>
  `;
}
