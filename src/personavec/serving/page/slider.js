// How far the model is pushed towards a trait, with the range in which its answers stay coherent.

import { signed } from "./readings.js";
import { state, steer } from "./state.js";
import { html } from "./vendor/htm-preact.js";

export function Slider({ vector }) {
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

/** The ends of a slider: half as far again as answers stay coherent. */
function reach(vector) {
  const [low, high] = vector.coherent_range ?? [-1, 1];
  const ends = vector.coherent_range ? [Math.min(low * 1.5, 0), Math.max(high * 1.5, 0)] : [-2, 2];
  return [Math.floor(ends[0] * 10) / 10, Math.ceil(ends[1] * 10) / 10];
}

/** Whether a coefficient is outside of the range in which answers were measured to stay coherent. */
const isBeyond = (vector, coefficient) =>
  vector.coherent_range !== null && (coefficient < vector.coherent_range[0] || coefficient > vector.coherent_range[1]);
