// One answer: how it was steered, its text, and what was read and raised.

import { again, goOn } from "./ask.js";
import { Branches } from "./branches.js";
import { measure, signed } from "./readings.js";
import { chosen, isWriting } from "./state.js";
import { Text } from "./tokens.js";
import { html } from "./vendor/htm-preact.js";

export function Answer({ turn, paired, goesOn }) {
  const steering = turn.plain ? "plain" : turn.steering.join(", ") || pushed(turn.steer) || "plain";
  const acts = !turn.control && html`
    ${goesOn && html`<${Branches} turn=${turn} />`}
    ${paired && !goesOn && html`<button onClick=${() => goOn(turn)}>Go on with this one</button>`}
    ${goesOn && html`<button disabled=${isWriting()} onClick=${() => again(turn)}>${turn.error ? "Try again" : "Again"}</button>`}
  `;
  return html`
    <article class=${`answer${paired && !goesOn ? " aside" : ""}`} aria-label=${`Answer, ${steering}`} aria-busy=${!!turn.control}>
      <div class="line"><span class=${`how${steering === "plain" ? "" : " pushed"}`}>${steering}</span><${Alarms} turn=${turn} /></div>
      <${Text} turn=${turn} />
      ${turn.error && html`<p class="error" role="alert">${turn.error}</p>`}
      ${turn.warnings.map((warning) => html`<p class="warning">${warning}</p>`)}
      <div class="acts"><${Found} turn=${turn} />${acts}</div>
    </article>
  `;
}

const pushed = (steer) =>
  Object.entries(steer).filter(([, by]) => by).map(([trait, by]) => `${trait} ${by > 0 ? "+" : ""}${by}`).join(", ");

const RULES = { before: "before the answer", during: "in the answer", conversation: "over the conversation", traffic: "over all traffic" };

/** What the server raised, in deviations of its normal traffic. */
function Alarms({ turn }) {
  const told = (turn.alarms ?? []).map(({ rule, trait, z, limit }) =>
    `${trait} ${RULES[rule] ?? rule}: ${signed(z)}, limit ${signed(limit)}`);
  return told.length > 0 && html`<span class="alarm" role="alert">Alarm: ${told.join("; ")}</span>`;
}

/** The reading of an answer in a line. */
function Found({ turn }) {
  const vector = chosen();
  const ended = { stopped: "stopped", length: "cut off" }[turn.ending];
  const found = vector && measure(vector, turn);
  const reading = found?.count && found.during !== null && `${vector.trait} ${signed(found.during)}${found.half === null ? "" : ` ± ${found.half.toFixed(1)}`}`;
  return html`<span class="found">${[turn.control && "writing…", reading, found?.count && `${found.count} tokens`, ended].filter(Boolean).join(" · ")}</span>`;
}
