// How the reading of a trait goes on over a conversation.

import { limitOf, measure, NORMAL, REACH, signed } from "./readings.js";
import { chosen, state } from "./state.js";
import { path } from "./tree.js";
import { html } from "./vendor/htm-preact.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, EDGE] = [320, 112, 26, 8, 8];

export function Drift() {
  const vector = chosen();
  const answers = path(state.tree).filter((turn) => turn.role === "assistant");
  if (!vector?.normal.answer) return null;
  const points = answers.map((turn) => measure(vector, turn)).filter((found) => found.before !== null || found.during !== null);
  if (!points.length) return null;
  const limit = answers.map((turn) => limitOf(vector, turn)).findLast((one) => one !== null) ?? null;
  const values = points.flatMap(({ before, during, half, peak }) => [before, during - half, during + half, peak]);
  const most = Math.min(12, Math.max(REACH, limit ?? 0, ...values.map((z) => Math.ceil(Math.abs(z ?? 0)))));
  const y = (z) => EDGE + ((HEIGHT - 2 * EDGE) * (most - Math.max(-most, Math.min(most, z)))) / (2 * most);
  const x = (turn) => LEFT + ((WIDTH - LEFT - RIGHT) * (turn + 0.5)) / points.length;
  const line = points.flatMap((found, at) => (found.during === null ? [] : [`${x(at)},${y(found.during)}`])).join(" ");
  return html`
    <section class="drift" aria-label="Drift">
      <h2>${vector.trait} over the conversation</h2>
      <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
        <rect class="band" x=${LEFT} width=${WIDTH - LEFT} y=${y(NORMAL)} height=${y(-NORMAL) - y(NORMAL)} />
        ${[-most, 0, most].map((z) => html`
          <line class="zero" x1=${LEFT} x2=${WIDTH} y1=${y(z)} y2=${y(z)} />
          <text x=${LEFT - 5} y=${y(z) + 4} text-anchor="end">${z ? signed(z, 0) : 0}</text>`)}
        ${limit !== null && html`<line class="limit" x1=${LEFT} x2=${WIDTH} y1=${y(limit)} y2=${y(limit)} />`}
        <polyline class="curve" points=${line} />
        ${points.map(({ before, during, half, peak }, at) => html`
          ${before !== null && html`<circle class="before" cx=${x(at)} cy=${y(before)} r="3.5" />`}
          ${during !== null && html`
            ${half !== null && html`<line class="whisker" x1=${x(at)} x2=${x(at)} y1=${y(during - half)} y2=${y(during + half)} />`}
            <line class="peak" x1=${x(at) - 6} x2=${x(at) + 6} y1=${y(peak)} y2=${y(peak)} />
            <circle class=${Math.abs(during) > NORMAL ? "during outside" : "during"} cx=${x(at)} cy=${y(during)} r="4" />`}
        `)}
      </svg>
      <details>
        <summary>○ before, ● in the answer, – its highest passage; shaded: normal;
          ${limit === null ? " no alarm limit is set" : ` dashed: alarm of a passage at ${signed(limit)}`}</summary>
        <table>
          <thead><tr><th>answer</th><th>before</th><th>in it</th><th>±</th><th>highest</th><th>tokens</th></tr></thead>
          <tbody>${points.map(({ before, during, half, peak, count }, at) => html`
            <tr><td>${at + 1}</td><td>${signed(before)}</td><td>${signed(during)}</td><td>${half?.toFixed(1) ?? "–"}</td><td>${signed(peak)}</td><td>${count}</td></tr>`)}
          </tbody>
        </table>
      </details>
    </section>
  `;
}
