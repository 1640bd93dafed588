// Formats of numbers, times and names.

export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
export const fileName = (uri) => uri.split("/").pop() || uri;
export const span = (hit) => `${clock(hit.start)}–${clock(hit.end)}`;

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
