// Formats of sizes, times and names.

import { number, t } from "./language.js";

export const fileName = (uri) => uri.split("/").pop() || uri;
export const span = (hit) => `${clock(hit.start)}–${clock(hit.end)}`;
export const spokenSpan = (hit) => t("{start} to {end}", { start: clock(hit.start), end: clock(hit.end) });

/** Where a hit at this rank, from 1, was before it was reranked; nothing if it has not moved. */
export function formerRank({ rank_before }, rank) {
  return rank_before && rank_before !== rank ? t("was number {rank}", { rank: number(rank_before) }) : "";
}

/** How likely a hit is what was asked for, in a word; nothing if the index does not say. */
export function likelihood({ confidence, confident }) {
  if (confidence === null) return "";
  if (confident) return t(confidence >= 0.99 ? "Very likely" : "Likely");
  return t(confidence >= 0.5 ? "Uncertain" : "Unlikely");
}

/** How far the job is that works on the index; nothing if none does. */
export function indexing(progress) {
  if (!progress) return "";
  const message = progress.step === "check" ? "Checking files: {done} of {total}" : "Indexing files: {done} of {total}";
  return t(message, { done: number(progress.done), total: number(progress.total) });
}

export function bytes(n) {
  const [size, unit] = n < 99_500 ? [n / 2 ** 10, "kilobyte"] : [n / 2 ** 20, "megabyte"];
  return number(size, 1, { style: "unit", unit });
}

/** The seconds of a time written as s, m:ss or h:mm:ss; NaN if it is written otherwise. */
export function secondsOf(time) {
  const parts = /^(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)$/.exec(time)?.slice(1);
  return parts ? parts.reduce((sum, part) => 60 * sum + Number(part ?? 0), 0) : NaN;
}

/** Seconds as m:ss, or h:mm:ss. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
