// The text of an answer, each of its tokens with its reading.

import { Bar, side } from "./gauge.js";
import { ofPiece, signed } from "./readings.js";
import { chosen, set, state } from "./state.js";
import { Component, html, useLayoutEffect, useRef } from "./vendor/htm-preact.js";

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

export function Text({ turn }) {
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
