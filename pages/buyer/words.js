// Numbers and times, formatted for readers.

/** A whole number in the format of the reader's language. */
export function count(number) {
  return new Intl.NumberFormat().format(number);
}

/** `1 order`, `17 orders`. */
export function counted(number, one, several) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

/** A time (µs) as a time of day, with the date if it is not today. */
export function timeOf(micros, nowMs) {
  const at = new Date(micros / 1000);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const isToday = at.toDateString() === new Date(nowMs).toDateString();
  return isToday ? time : `${at.toLocaleDateString([], { weekday: "short", day: "numeric", month: "short" })}, ${time}`;
}

/** A remaining time as on a clock: `0:42`, `12:05:00`, `2 days 3:00:00`. */
export function left(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const days = Math.floor(seconds / 86_400);
  const hours = Math.floor(seconds / 3_600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  const two = (number) => String(number).padStart(2, "0");
  const clock = hours || days ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  return days ? `${counted(days, "day", "days")} ${clock}` : clock;
}
