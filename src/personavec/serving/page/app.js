// The page: what is shown where.

import { restart } from "./ask.js";
import { Chat } from "./chat.js";
import { KeyDialog, Recipe } from "./dialogs.js";
import { Drift } from "./drift.js";
import { Gauge } from "./gauge.js";
import { limitOf, measure } from "./readings.js";
import { fromHash } from "./recipe.js";
import { chosen, isWriting, latest, onChange, open, set, state } from "./state.js";
import { Readout } from "./tokens.js";
import { Traits } from "./traits.js";
import { download } from "./transcript.js";
import { textOf } from "./tree.js";
import { html, render, useState } from "./vendor/htm-preact.js";
import { Composer } from "./writing.js";

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
          </div>
          <${Drift} />
        </aside>
      </main>
    `}
    <${Readout} />
    <div class="unseen" aria-live="polite">${spoken(answer)}</div>
    ${asksKey && html`<${KeyDialog} onKey=${start} />`}
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
  const vector = chosen();
  if (!vector || !answer) return null;
  return html`<div class="strip"><span>${vector.trait}</span><span class="scale">−3 <i></i> +3</span><${Gauge} vector=${vector} found=${measure(vector, answer)}
    limit=${limitOf(vector, answer)} /></div>`;
}

async function start() {
  await open();
  if (state.known) set(fromHash(location.hash, state));
}

onChange(() => render(html`<${App} />`, document.getElementById("app")));
addEventListener("resize", () => set({ pointed: null }));
addEventListener("hashchange", () => state.known && set(fromHash(location.hash, state)));
start();
