// Where a reading lies, with the normal band drawn in.

import { NORMAL, REACH, signed } from "./readings.js";
import { html } from "./vendor/htm-preact.js";

const clamped = (z) => Math.max(-REACH, Math.min(REACH, z));
const at = (z) => `${50 + (50 * clamped(z)) / REACH}%`;
const between = (a, b) => ({ x: at(Math.min(a, b)), width: `${(50 * Math.abs(clamped(a) - clamped(b))) / REACH}%` });

export const side = (z) => (z < 0 ? "below" : "above");

/** A bar from 0 to z over the normal band. */
export const Bar = ({ z }) => html`
  <svg class="gauge small" aria-hidden="true">
    <rect class="band" ...${between(-NORMAL, NORMAL)} y="1" height="10" />
    <line class="zero" x1="50%" x2="50%" y1="0" y2="12" />
    ${z !== null && html`<rect class=${`bar ${side(z)}`} ...${between(0, z)} y="3" height="6" />`}
  </svg>
`;

/** A measured answer (see `measure`), and another one beside it. */
export function Gauge({ vector, found, other, limit }) {
  const { before, during, half, peak } = found;
  return html`
    <svg class="gauge" role="img" aria-label=${inWords(vector, found)}>
      <rect class="track" x="0" width="100%" y="9" height="6" rx="3" />
      <rect class="band" ...${between(-NORMAL, NORMAL)} y="2" height="20" rx="2" />
      <line class="zero" x1="50%" x2="50%" y1="2" y2="22" />
      ${limit != null && html`<line class="limit" x1=${at(limit)} x2=${at(limit)} y1="0" y2="24" />`}
      ${during !== null && html`
        ${Math.abs(found.with - during) > 0.02 && html`<rect class="push" ...${between(during, found.with)} y="9.5" height="5" />`}
        <rect class=${`bar ${side(during)}`} ...${between(0, during)} y="7" height="10" rx="1.5" />
        ${half !== null && html`<line class="whisker" x1=${at(during - half)} x2=${at(during + half)} y1="12" y2="12" />`}
        <line class="peak" x1=${at(peak)} x2=${at(peak)} y1="4" y2="20" />
      `}
      ${before !== null && html`<circle class="before" cx=${at(before)} cy="12" r="4" />`}
      ${other?.during != null && html`<rect class="other" x=${at(other.during)} y="8" width="8" height="8" />`}
    </svg>
  `;
}

/** The same for those who do not see it. */
function inWords(vector, found) {
  if (found.during === null && found.before === null) return `${vector.trait}: no reading yet`;
  const half = found.half === null ? "" : ` plus or minus ${found.half.toFixed(1)}`;
  return (
    `${vector.trait}, in deviations: before the answer ${signed(found.before)}, in the answer ${signed(found.during)}${half}, ` +
    `highest passage ${signed(found.peak)}; normal is −${NORMAL} to +${NORMAL}`
  );
}

/** What the marks of the gauges mean. */
export const Key = ({ other }) => html`
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
