// The conversation: turns, their branches, and answers whose every token shows its reading.

import { Bar, side } from "./gauge.js";
import { measure, ofPiece, signed } from "./readings.js";
import { again, goOn, isWriting, say, set, setting, state, stop, textOf } from "./state.js";
import { partner } from "./traits.js";
import { groups, path } from "./tree.js";
import { Component, html, useEffect, useLayoutEffect, useRef } from "./vendor/htm-preact.js";

export function Chat() {
  const turns = path(state.tree);
  const box = useRef();
  const written = turns.reduce((sum, turn) => sum + textOf(turn).length, 0);
  const follow = (always) => () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    if (always || scrollHeight - scrollTop - clientHeight < 160) box.current.scrollTop = scrollHeight;
  };
  useEffect(follow(false), [written]);
  useEffect(follow(true), [turns.length]);
  return html`
    <div class="turns" ref=${box} tabindex="0" role="region" aria-label="Conversation">
      ${turns.length === 0 && html`<${Welcome} examples=${chosen()?.examples ?? []} />`}
      ${turns.map((turn) => (turn.role === "user" ? html`<${Said} key=${turn.id} turn=${turn} />` : html`<${Answers} key=${turn.id} turn=${turn} />`))}
    </div>
  `;
}

const chosen = () => state.known.data.find((vector) => vector.trait === state.trait);

const Welcome = ({ examples }) => html`
  <div class="welcome">
    <h2>Ask, push, and watch</h2>
    <p>Sliders push the model's character. Every token of an answer is coloured by what the model holds of a trait while it writes it.</p>
    ${examples.map((text) => html`<button onClick=${() => set({ draft: text })}>${text}</button>`)}
  </div>
`;

function Branches({ turn }) {
  const all = groups(state.tree, turn);
  if (all.length < 2) return null;
  const at = all.findIndex((group) => group.includes(turn));
  const go = (step) => () => goOn(all[at + step].at(-1));
  return html`
    <span class="branches" role="group" aria-label="Branches">
      <button aria-label="Branch before" disabled=${at === 0} onClick=${go(-1)}>‹</button>
      <span>${at + 1} of ${all.length}</span>
      <button aria-label="Branch after" disabled=${at === all.length - 1} onClick=${go(1)}>›</button>
    </span>
  `;
}

function Said({ turn }) {
  return html`
    <article class="said" aria-label="You">
      ${state.editing?.turn === turn
        ? html`<${Writing} label="Say instead" text=${state.editing.text} button="Ask" onSay=${(text) => say(text, turn)}
            onText=${(text) => set({ editing: { turn, text } })} onLeave=${() => set({ editing: null })} />`
        : html`
            <p class="bubble">${turn.text}</p>
            <div class="acts">
              <${Branches} turn=${turn} />
              <button disabled=${isWriting()} onClick=${() => set({ editing: { turn, text: turn.text } })}>Edit</button>
            </div>
          `}
    </article>
  `;
}

/** A field for several lines; Enter sends them. */
function Writing({ label, text, button, onSay, onLeave, onText }) {
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

function Answers({ turn }) {
  const other = partner(turn);
  const pair = other && [turn, other].sort((one, two) => two.plain - one.plain);
  return html`
    <div class=${pair ? "answers two" : "answers"}>
      ${(pair ?? [turn]).map((one) => html`<${Answer} key=${one.id} turn=${one} paired=${!!pair} goesOn=${one === turn} />`)}
    </div>
  `;
}

function Answer({ turn, paired, goesOn }) {
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

/** Drawn anew only for more text or another trait: an answer may have thousands of tokens. */
class Tokens extends Component {
  shouldComponentUpdate(next) {
    return next.count !== this.props.count || next.vector !== this.props.vector;
  }
  render({ turn, vector }) {
    return turn.pieces.map((piece, at) => {
      const z = vector ? ofPiece(vector, turn, piece) : null;
      const tint = z === null ? 0 : Math.min(Math.abs(z) / 3, 1);
      const [, space, text] = piece.text.match(/^(\s*)(.*)$/s);
      return html`${text && space}<span key=${at} data-at=${at} class=${`token ${z === null ? "" : side(z)}`}
        style=${{ "--tint": tint.toFixed(2) }}>${text || space}</span>`;
    });
  }
}

function Text({ turn }) {
  const box = useRef();
  const vector = chosen();
  const looked = state.pointed?.turn === turn ? state.pointed.at : null;
  const point = (at) => {
    if (at === null) return set({ pointed: null });
    set({ pointed: { turn, at, box: box.current.children[at].getBoundingClientRect() } });
  };
  const over = (event) => event.target.dataset.at && point(Number(event.target.dataset.at));
  const key = (event) => {
    const last = turn.pieces.length - 1;
    const from = state.pointed?.turn === turn ? state.pointed.at : -1; // now: keys may come faster than it is drawn
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") point(null);
    if (to === undefined || last < 0) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(last, to));
    box.current.children[at].scrollIntoView({ block: "nearest" });
    point(at);
  };
  useLayoutEffect(() => {
    const token = looked === null ? null : box.current.children[looked];
    token?.classList.add("looked");
    return () => token?.classList.remove("looked");
  }, [looked]);
  const label = "Text of the answer; arrow keys go through its tokens";
  return html`
    <p class=${turn.control ? "text busy" : "text"} ref=${box} tabindex="0" role="group" aria-label=${label} onKeyDown=${key}
      onPointerOver=${(event) => event.pointerType === "mouse" && over(event)} onClick=${over} onBlur=${() => point(null)}
      onPointerLeave=${(event) => event.pointerType === "mouse" && point(null)}><${Tokens} turn=${turn} vector=${vector} count=${turn.pieces.length} /></p>
  `;
}

/** What is read at the token that is looked at. It stands in the page at all times, so that it is read out. */
export function Readout() {
  const { pointed, known, trait } = state;
  const piece = pointed?.turn.pieces[pointed.at];
  if (!piece) return html`<div class="readout" role="status" hidden></div>`;
  const { box, turn } = pointed;
  const below = box.bottom + 40 + 22 * known.data.length + 60 < innerHeight;
  const style = { left: `${Math.max(8, Math.min(box.left, innerWidth - 268))}px`, [below ? "top" : "bottom"]: `${below ? box.bottom + 6 : innerHeight - box.top + 6}px` };
  const order = [...known.data].sort((one, two) => (two.trait === trait) - (one.trait === trait));
  const [drawn] = piece.likely;
  const others = piece.likely.length === 1 ? drawn.top_logprobs.filter((one) => one.token !== drawn.token && one.logprob > -5) : [];
  const chance = (one) => `${(100 * Math.exp(one.logprob)).toFixed(0)} %`;
  return html`
    <div class="readout" role="status" style=${style}>
      <p><b>${JSON.stringify(piece.text)}</b>${drawn && ` · ${piece.likely.length > 1 ? `${piece.likely.length} tokens` : `chance ${chance(drawn)}`}`}</p>
      ${order.map((vector) => {
        const z = ofPiece(vector, turn, piece);
        return html`<div class="row"><span>${vector.trait}</span><${Bar} z=${z} /><span>${signed(z)}</span></div>`;
      })}
      ${others.length > 0 && html`<p class="hint">instead ${others.map((one) => `${JSON.stringify(one.token)} ${chance(one)}`).join(", ")}</p>`}
    </div>
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
        ${isWriting() && html`<button class="main" onClick=${stop}>Stop</button>`}
      </div>
    </div>
  `;
}
