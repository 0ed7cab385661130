// A conversation as a tree: every edit and every further answer is a branch beside the others.

export const planted = () => ({ nodes: [{ id: 0, children: [], chosen: null }] });

/** Put a turn under another one, and go on with it. */
export function add(tree, parent, turn) {
  const node = { ...turn, id: tree.nodes.length, parent, children: [], chosen: null };
  tree.nodes.push(node);
  tree.nodes[parent].children.push(node.id);
  tree.nodes[parent].chosen = node.id;
  return node;
}

/** Go on with this turn rather than with one beside it. */
export function choose(tree, node) {
  tree.nodes[node.parent].chosen = node.id;
}

/** The turns that are gone on with, from the first. */
export function path(tree) {
  const turns = [];
  for (let at = tree.nodes[0]; at.chosen !== null; turns.push(at)) at = tree.nodes[at.chosen];
  return turns;
}

/** The turns down to this one. */
export function upTo(tree, node) {
  const turns = [];
  for (let at = node; at.id !== 0; at = tree.nodes[at.parent]) turns.unshift(at);
  return turns;
}

/** A turn and those beside it, in groups: two answers that were asked for together are one group. */
export function groups(tree, node) {
  const found = new Map();
  for (const id of tree.nodes[node.parent].children) {
    const other = tree.nodes[id];
    const name = other.pair ?? `alone-${id}`;
    found.set(name, [...(found.get(name) ?? []), other]);
  }
  return [...found.values()];
}

/** What was asked for together with an answer. */
export const partner = (tree, answer) =>
  (answer?.pair && groups(tree, answer).find((group) => group.includes(answer)).find((one) => one !== answer)) || null;

/** What a turn says, or has said so far. */
export const textOf = (turn) => turn.text ?? turn.pieces.map((piece) => piece.text).join("");
