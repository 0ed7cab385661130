// What is asked or handed out over the page.

import { hasKey } from "./api.js";
import { command, curl, toHash } from "./recipe.js";
import { state, unlock } from "./state.js";
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";

function Dialog({ title, onClose, children }) {
  const box = useRef();
  useEffect(() => {
    box.current.showModal();
  }, []);
  return html`
    <dialog ref=${box} aria-label=${title} onClose=${onClose ?? (() => box.current.showModal())}>
      <h2>${title}</h2>
      ${children}
    </dialog>
  `;
}

export function KeyDialog({ onKey }) {
  const key = useRef();
  const send = (event) => {
    event.preventDefault();
    unlock(key.current.value);
    if (!state.known) onKey();
  };
  return html`
    <${Dialog} title="An API key of this server">
      <form onSubmit=${send}>
        <p class="hint">${hasKey() && "The server does not know that key. "}It is kept in this page while it is open, and nowhere else.</p>
        <label>API key <input ref=${key} type="password" autocomplete="off" required /></label>
        <button class="main" type="submit">Use it</button>
      </form>
    <//>
  `;
}

export function Recipe({ answer, onClose }) {
  const { settings, trait, draft } = state;
  const first = state.tree.nodes[1]?.text ?? "";
  const link = location.href.split("#")[0] + toHash(settings, trait, draft || first);
  return html`
    <${Dialog} title="Share a recipe" onClose=${onClose}>
      <${Copied} label="Link with the settings as they are now" text=${link} />
      ${answer && html`
        ${command(answer)
          ? html`<${Copied} label="The last answer by command" text=${command(answer)} />`
          : html`<p class="hint">The command answers first messages alone: this answer has a conversation before it.</p>`}
        <${Copied} label="The last answer by request" text=${curl(answer)} />
      `}
      <form method="dialog"><button>Close</button></form>
    <//>
  `;
}

function Copied({ label, text }) {
  const field = useRef();
  const [done, setDone] = useState(false);
  const copy = async () => {
    field.current.select();
    await navigator.clipboard?.writeText(text).then(() => setDone(true), () => {});
  };
  return html`
    <div class="copied">
      <label>${label} <textarea ref=${field} readonly rows="3" value=${text}></textarea></label>
      <button onClick=${copy} aria-live="polite">${done ? "Copied" : "Copy"}</button>
    </div>
  `;
}
