// Numbers of readings, in deviations of the model's neutral answers.

export const NORMAL = 2; // deviations to either side: 95 of 100 neutral answers, if they are spread like a bell
export const REACH = 4; // deviations to either end of a gauge
const WINDOW = 16; // tokens, as the server's windowed maximum

/** What steering adds to the readings along a trait by itself; null: that cannot be told apart from the text. */
export function push(known, steer, trait) {
  let sum = 0;
  for (const vector of known.data) {
    const coefficient = steer[vector.trait] ?? 0;
    if (coefficient === 0) continue;
    if (vector.push[trait] === null) return null;
    sum += coefficient * vector.push[trait];
  }
  const bound = ["cap", "floor", "ablate"].some((option) => known.default[option]);
  return bound ? null : sum;
}

const standard = (value, normal) => (normal ? (value - normal[0]) / normal[1] : null);

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * An answer along a trait, less what steering adds by itself where that is known.
 *
 * before: the last token of the prompt. during: the mean of the tokens so far, `half` the half of its 95 % interval
 * with tokens taken as independent. peak: the highest mean of 16 tokens in a row. with: `during` with the push.
 */
export function measure(vector, answer) {
  const trait = vector.trait;
  const shift = answer.push[trait];
  const less = shift ?? 0;
  const z = (value, of) => standard(value - less, vector.normal[of]);
  const values = answer.pieces.flatMap((piece) => piece.readings.map((reading) => reading[trait])).filter(Number.isFinite);
  const found = { count: values.length, before: null, during: null, half: null, peak: null, with: null, value: null };
  found.holdsPush = shift === null;
  if (answer.prompt[trait]) found.before = z(answer.prompt[trait].value, "prompt");
  if (!values.length) return found;
  found.value = mean(values) - less;
  found.during = z(mean(values), "answer");
  found.with = standard(mean(values), vector.normal.answer);
  if (values.length > 1 && vector.normal.answer) {
    const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - less - found.value) ** 2, 0) / (values.length - 1));
    found.half = (1.96 * spread) / Math.sqrt(values.length) / vector.normal.answer[1];
  }
  found.peak = z(highest(values), "answer");
  return found;
}

/** Where the alarm of a trait is raised, for the highest passage of an answer like this one; null: no limit, or none that fits. */
export function limitOf(vector, answer) {
  if (vector.alarm_at == null || !answer?.alarms) return null;
  return standard(vector.alarm_at - (answer.push[vector.trait] ?? 0), vector.normal.answer);
}

function highest(values) {
  const size = Math.min(WINDOW, values.length);
  let sum = values.slice(0, size).reduce((total, value) => total + value, 0);
  let most = sum;
  for (let at = size; at < values.length; at++) {
    sum += values[at] - values[at - size];
    most = Math.max(most, sum);
  }
  return most / size;
}

/** A piece of text along a trait, in deviations of single tokens. */
export function ofPiece(vector, answer, piece) {
  const values = piece.readings.map((reading) => reading[vector.trait]).filter(Number.isFinite);
  const less = answer.push[vector.trait] ?? 0;
  return values.length ? standard(mean(values) - less, vector.normal.token) : null;
}

export const signed = (number, digits = 1) =>
  number === null || number === undefined ? "–" : (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);
