// The page: what is shown where.

import { hasKey } from "./api.js";
import { Chat, Composer, Readout } from "./chat.js";
import { Drift } from "./drift.js";
import { Gauge } from "./gauge.js";
import { limitOf, measure } from "./readings.js";
import { command, curl, fromHash, toHash, transcript } from "./recipe.js";
import { isWriting, latest, onChange, open, restart, set, setting, state, textOf, unlock } from "./state.js";
import { Traits } from "./traits.js";
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";

function App() {
  const [panel, setPanel] = useState(false); // on narrow screens the chat or the traits are shown
  const [sharing, setSharing] = useState(false);
  const { known, problem, asksKey } = state;
  const answer = latest();
  return html`
    <header>
      <h1>personavec <small>${known?.model}</small></h1>
      <nav aria-label="Conversation">
        <button class="toggle" aria-expanded=${panel} aria-controls="panel" onClick=${() => setPanel(!panel)}>Traits</button>
        <button disabled=${!answer} onClick=${restart}>New</button>
        <button disabled=${!known} onClick=${() => setSharing(true)}>Share</button>
        <button disabled=${!answer || isWriting()} onClick=${download}>Export</button>
      </nav>
    </header>
    ${problem && !asksKey && html`<p class="error" role="alert">${problem} <button onClick=${start}>Try again</button></p>`}
    ${known && html`
      <main class=${panel ? "panel" : ""}>
        <section class="chat" aria-label="Chat">
          ${state.notes.map((note) => html`<p class="warning" role="alert">${note}</p>`)}
          <${Chat} />
          <${Strip} answer=${answer} />
          <${Composer} />
        </section>
        <aside id="panel" aria-label="Traits">
          <div class="rack" tabindex="0" role="region" aria-label="Gauges and sliders">
            <${Traits} answer=${answer} />
            <${Settings} />
          </div>
          <${Drift} />
        </aside>
      </main>
    `}
    <${Readout} />
    <div class="unseen" aria-live="polite">${spoken(answer)}</div>
    ${asksKey && html`<${KeyDialog} />`}
    ${sharing && html`<${Recipe} answer=${answer} onClose=${() => setSharing(false)} />`}
  `;
}

/** What is read out while an answer is written: sentence by sentence. */
function spoken(answer) {
  if (!answer) return "";
  const sentences = textOf(answer).split(/(?<=[.!?…]\s|\n)/);
  return answer.control ? (sentences.at(-2) ?? "") : `${sentences.at(-1)} End of the answer.`;
}

/** What the colours mean; and the chosen trait's gauge, where the cards are not in sight. */
function Strip({ answer }) {
  const vector = state.known.data.find((one) => one.trait === state.trait);
  if (!vector || !answer) return null;
  return html`<div class="strip"><span>${vector.trait}</span><span class="scale">−3 <i></i> +3</span><${Gauge} vector=${vector} found=${measure(vector, answer)}
    limit=${limitOf(vector, answer)} /></div>`;
}

function Settings() {
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

function KeyDialog() {
  const key = useRef();
  const send = (event) => {
    event.preventDefault();
    unlock(key.current.value);
    if (!state.known) start();
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

function Recipe({ answer, onClose }) {
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

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([transcript() + "\n"], { type: "application/jsonl" }));
  link.download = "conversation.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function start() {
  await open();
  if (state.known) set(fromHash(location.hash, state));
}

onChange(() => render(html`<${App} />`, document.getElementById("app")));
addEventListener("resize", () => set({ pointed: null }));
addEventListener("hashchange", () => state.known && set(fromHash(location.hash, state)));
start();
