// A card for each trait: what is read of it, and how far it is pushed.

import { Gauge } from "./gauge.js";
import { isBeyond, limitOf, measure, NORMAL, reach, signed } from "./readings.js";
import { set, state, steer } from "./state.js";
import { groups } from "./tree.js";
import { html } from "./vendor/htm-preact.js";

/** What was asked for together with an answer. */
export const partner = (answer) =>
  (answer?.pair && groups(state.tree, answer).find((group) => group.includes(answer)).find((one) => one !== answer)) || null;

export function Traits({ answer }) {
  const { known } = state;
  if (!known.data.length) {
    return html`<p class="hint">No vector is served. Start the server with <code>--vector</code>, such as
      <code>personavec serve --vector optimistic</code>.</p>`;
  }
  const other = partner(answer);
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

function Slider({ vector }) {
  const { trait, opposite } = vector;
  const coefficient = state.settings.steer[trait];
  const [low, high] = reach(vector);
  const share = (number) => (number - low) / (high - low);
  const [from, to] = vector.coherent_range ?? [low, high];
  const beyond = isBeyond(vector, coefficient);
  const said = beyond ? "outside of the coherent range" : "";
  const style = { "--from": share(from), "--to": share(to), "--zero": share(0) };
  return html`
    <div class="slider" style=${style}>
      <input type="range" min=${low} max=${high} step="0.1" value=${coefficient} disabled=${!state.known.client_steering}
        aria-label=${`Push towards ${trait}`}
        aria-valuetext=${`${signed(coefficient)} ${said}`} onInput=${(event) => steer(trait, Number(event.target.value))} />
      <output class=${beyond ? "beyond" : ""}>${coefficient ? signed(coefficient) : "0"}</output>
    </div>
    ${(beyond || state.trait === trait) && html`
      <div class="ends">
        <span>${opposite ?? "less"}</span>
        <span class=${beyond ? "beyond" : ""}>
          ${vector.coherent_range ? `${beyond ? "noise beyond" : "coherent"} ${signed(from)} to ${signed(to)}` : "range not measured"}
        </span>
        <span>${trait}</span>
      </div>
    `}
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

/** What the marks of the gauges mean. */
const Key = ({ other }) => html`
  <details class="key">
    <summary>How to read the gauges</summary>
    <dl>
      <dt><i class="mark band"></i></dt><dd>Normal: within ${NORMAL} deviations of the model's neutral answers, as some 95 of 100 are.</dd>
      <dt><i class="mark bar"></i></dt><dd>The answer's mean; the line through it is its 95 % interval, tokens taken as independent, so at least that wide.</dd>
      <dt><i class="mark before"></i></dt><dd>The moment before the answer, after the prompt.</dd>
      <dt><i class="mark peak"></i></dt><dd>The highest 16 tokens in a row, which lie higher by chance alone.</dd>
      <dt><i class="mark limit"></i></dt><dd>Where an alarm is raised of that, if the server watches its answers.</dd>
      <dt><i class="mark push"></i></dt><dd>What the steering itself adds to the reading, taken off the mean. Where it acts by way of other layers it cannot be, and the figure says "push included".</dd>
      <dt><i class="mark other"></i></dt><dd>${other ? `The ${other.plain ? "plain" : "steered"} answer beside it.` : "The answer beside it, where there are two."}</dd>
    </dl>
  </details>
`;
