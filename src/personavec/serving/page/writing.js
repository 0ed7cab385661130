// Fields in which somebody writes to the model.

import { say, stop } from "./ask.js";
import { Settings } from "./settings.js";
import { isWriting, set, setting, state } from "./state.js";
import { html, useLayoutEffect, useRef } from "./vendor/htm-preact.js";

/** A field for several lines; Enter sends them. */
export function Writing({ label, text, button, onSay, onLeave, onText }) {
  const field = useRef();
  useLayoutEffect(() => {
    if (onLeave) field.current.focus();
  }, []);
  const send = (event) => {
    event.preventDefault();
    onSay(field.current.value);
  };
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
    if (event.key === "Escape") onLeave?.();
  };
  return html`
    <form class="writing" onSubmit=${send}>
      <textarea ref=${field} rows=${onLeave ? 3 : 2} aria-label=${label} placeholder=${label} value=${text} onKeyDown=${key}
        onInput=${(event) => onText(event.target.value)}></textarea>
      ${onLeave && html`<button type="button" onClick=${onLeave}>Cancel</button>`}
      ${button && html`<button class="main" type="submit">${button}</button>`}
    </form>
  `;
}

export function Composer() {
  const { draft, known, settings } = state;
  return html`
    <div class="composer">
      <${Writing} label="Say something" text=${draft} onText=${(text) => set({ draft: text })} onSay=${(text) => say(text)} button=${isWriting() ? null : "Send"} />
      <div class="acts">
        <label><input type="checkbox" checked=${settings.compare} disabled=${!known.client_steering}
          onChange=${(event) => setting({ compare: event.target.checked })} />
          Plain beside steered</label>
        <${Settings} />
        ${isWriting() && html`<button class="main" onClick=${stop}>Stop</button>`}
      </div>
    </div>
  `;
}
