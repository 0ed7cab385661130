// A card for each trait: what is read of it, and how far it is pushed.

import { Gauge, Key } from "./gauge.js";
import { limitOf, measure, NORMAL, signed } from "./readings.js";
import { Slider } from "./slider.js";
import { set, state } from "./state.js";
import { partner } from "./tree.js";
import { html } from "./vendor/htm-preact.js";

export function Traits({ answer }) {
  const { known } = state;
  if (!known.data.length) {
    return html`<p class="hint">No vector is served. Start the server with <code>--vector</code>, such as
      <code>personavec serve --vector optimistic</code>.</p>`;
  }
  const other = partner(state.tree, answer);
  return html`
    ${!known.client_steering && html`<p class="hint">This server does not let requests steer: the sliders show what it does by itself.</p>`}
    <div class="cards">${known.data.map((vector) => html`<${Card} key=${vector.trait} ...${{ vector, answer, other }} />`)}</div>
    <${Key} other=${other} />
  `;
}

function Card({ vector, answer, other }) {
  const { trait } = vector;
  const found = answer && measure(vector, answer);
  return html`
    <section class=${state.trait === trait ? "card chosen" : "card"} aria-label=${trait}>
      <div class="line">
        <label class="name">
          <input type="radio" name="trait" checked=${state.trait === trait} onChange=${() => set({ trait })} />
          ${trait}
        </label>
        <${Figure} ...${{ vector, found }} />
      </div>
      <${Gauge} vector=${vector} found=${found ?? measure(vector, NOTHING)} other=${other && measure(vector, other)}
        limit=${limitOf(vector, answer)} />
      <${Slider} vector=${vector} />
      ${state.trait === trait && html`
        <details>
          <summary>What it is, and what it does</summary>
          <${Evidence} vector=${vector} />
        </details>
      `}
    </section>
  `;
}

const NOTHING = { push: {}, prompt: {}, pieces: [] };

/** The number beside a trait's name. */
function Figure({ vector, found }) {
  if (!found?.count) return html`<span class="figure quiet">no reading yet</span>`;
  if (found.during === null) return html`<span class="figure">${signed(found.value)} <small>no normal band</small></span>`;
  const outside = Math.abs(found.during) > NORMAL;
  return html`
    <span class=${outside ? "figure outside" : "figure"}>
      ${signed(found.during)} ${found.half !== null && html`<small>± ${found.half.toFixed(1)}</small>`}
      ${found.holdsPush ? html`<small class="quiet">push included</small>` : outside && html`<small class="flag">outside</small>`}
    </span>
  `;
}

const interval = ({ mean, low, high, n }, unit, told) =>
  `${told(mean)}${unit}${low === null ? "" : ` [${told(low)}, ${told(high)}]`}, n = ${n}`;

function Evidence({ vector }) {
  const { description, auc, effect, effect_at, chance, word, layer, steered_at } = vector;
  return html`
    ${description && html`<p>${description}</p>`}
    <dl>
      ${word && html`<dt>Found</dt><dd>${word}</dd>`}
      ${effect && html`<dt>Steering</dt><dd>${interval(effect, " points", (points) => signed(points))} from ${signed(-effect_at)} to ${signed(effect_at)};
        random directions ${chance.toFixed(1)} at most in 95 of 100</dd>`}
      ${auc && html`<dt>Reading</dt><dd>AUC ${interval(auc, "", (share) => share.toFixed(2))}</dd>`}
      <dt>Layer</dt><dd>${layer === steered_at ? layer : `read at ${layer}, steered at ${steered_at}`}</dd>
    </dl>
  `;
}
