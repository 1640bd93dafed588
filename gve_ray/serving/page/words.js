// Formats of numbers, times and names.

export const count = (n, noun, plural = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;
export const fileName = (uri) => uri.split("/").pop() || uri;
export const span = (hit) => `${clock(hit.start)}–${clock(hit.end)}`;

/** How likely a hit is what was asked for, in a word; nothing if the index does not say. */
export function likelihood({ confidence, confident }) {
  if (confidence === null) return "";
  if (confident) return confidence >= 0.99 ? "Very likely" : "Likely";
  return confidence >= 0.5 ? "Uncertain" : "Unlikely";
}

export function bytes(n) {
  return n < 99_500 ? `${(n / 2 ** 10).toFixed(1)} kB` : `${(n / 2 ** 20).toFixed(1)} MB`;
}

/** Seconds as m:ss, or h:mm:ss. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
