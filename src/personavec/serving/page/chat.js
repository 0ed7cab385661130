// The conversation, turn by turn.

import { Answer } from "./answer.js";
import { say } from "./ask.js";
import { Branches } from "./branches.js";
import { chosen, isWriting, set, state } from "./state.js";
import { partner, path, textOf } from "./tree.js";
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { Writing } from "./writing.js";

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

const Welcome = ({ examples }) => html`
  <div class="welcome">
    <h2>Ask, push, and watch</h2>
    <p>Sliders push the model's character. Every token of an answer is coloured by what the model holds of a trait while it writes it.</p>
    ${examples.map((text) => html`<button onClick=${() => set({ draft: text })}>${text}</button>`)}
  </div>
`;

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

function Answers({ turn }) {
  const other = partner(state.tree, turn);
  const pair = other && [turn, other].sort((one, two) => two.plain - one.plain);
  return html`
    <div class=${pair ? "answers two" : "answers"}>
      ${(pair ?? [turn]).map((one) => html`<${Answer} key=${one.id} turn=${one} paired=${!!pair} goesOn=${one === turn} />`)}
    </div>
  `;
}
