// Numbers and times as people read them. Values may be missing or strings (64-bit integers in protobuf's JSON).

export const none = "\u2013";

export function number(value) {
  const n = Number(value);
  return Number.isFinite(n) ? n : null;
}

export function count(value) {
  const n = number(value);
  return n === null ? none : n.toLocaleString("en-US", {maximumFractionDigits: 0});
}

export function short(value) {
  const n = number(value);
  if (n === null) return none;
  if (n < 10_000) return count(n);
  return n.toLocaleString("en-US", {notation: "compact", maximumFractionDigits: 1});
}

export function percent(fraction, digits = 1) {
  const n = fraction === undefined || fraction === null ? null : number(fraction);
  return n === null ? none : `${(100 * n).toFixed(digits)}\u202f%`;
}

export function decimal(value, digits = 3) {
  const n = value === undefined || value === null ? null : number(value);
  return n === null ? none : n.toFixed(digits);
}

// As it was set: 8, 0.05, 1e-5.
export function exact(value) {
  const n = number(value);
  return n === null ? none : String(Number(n.toPrecision(6)));
}

export function bytes(value) {
  let n = number(value);
  if (n === null) return none;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000;
    ++unit;
  }
  const digits = unit === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
  return `${n.toFixed(digits)}\u202f${units[unit]}`;
}

// 75 -> "1 min 15 s".
export function seconds(value) {
  const n = number(value);
  if (n === null || n < 0) return none;
  if (n < 9.95) return `${n.toFixed(1)}\u202fs`;
  if (n < 59.5) return `${Math.round(n)}\u202fs`;
  const total = Math.round(n);
  if (total < 3600) return `${Math.floor(total / 60)}\u202fmin ${total % 60}\u202fs`;
  if (total < 86400) return `${Math.floor(total / 3600)}\u202fh ${Math.floor((total % 3600) / 60)}\u202fmin`;
  return `${Math.floor(total / 86400)}\u202fd ${Math.floor((total % 86400) / 3600)}\u202fh`;
}

// Time left is a guess: said roughly.
export function roughly(value) {
  const n = number(value);
  if (n === null || n < 0) return "";
  if (n < 8) return "a few seconds left";
  if (n < 55) return `about ${Math.ceil(n / 10) * 10} seconds left`;
  if (n < 90) return "about a minute left";
  if (n < 3300) return `about ${Math.round(n / 60)} minutes left`;
  if (n < 5400) return "about an hour left";
  if (n < 129_600) return `about ${Math.round(n / 3600)} hours left`;
  return `about ${Math.round(n / 86400)} days left`;
}

export function ago(ms) {
  if (ms < 2000) return "now";
  return `${seconds(Math.round(ms / 1000)).replace(/ \d+\u202fs$/, "")} ago`;
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${Number(n) === 1 ? one : many}`;
}
