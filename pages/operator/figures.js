// Queries on a list of results such as that of `GetMetricData`: pure functions.

/** The results of a metric, or of several, and one statistic whose dimensions are `wanted`. */
export function find(results, metrics, statistic, wanted = {}) {
  const fits = ({ dimensions }) => Object.entries(wanted).every(([name, value]) => dimensions[name] === value);
  return results.filter((one) => [metrics].flat().includes(one.metric) && one.statistic === statistic && fits(one));
}

/** The total of several results since the start. */
export function total(found) {
  return found.reduce((sum, one) => sum + one.total, 0);
}

/** The newest value of a result; null if there is none. */
export function newest(one) {
  return one?.values.findLast((value) => value !== null) ?? null;
}

/** The sum of several results, step by step; null if none of them has a value. */
export function sum(found, steps) {
  return Array.from({ length: steps }, (_, step) => {
    const values = found.map((one) => one.values[step]).filter((value) => value !== null);
    return values.length ? values.reduce((all, value) => all + value, 0) : null;
  });
}

/** The largest of several results, step by step. */
export function largest(found, steps) {
  return Array.from({ length: steps }, (_, step) => {
    const values = found.map((one) => one.values[step]).filter((value) => value !== null);
    return values.length ? Math.max(...values) : null;
  });
}

/** A rate in each second; a step without a value counts as 0. */
export function perSecond(values, stepSeconds) {
  return values.map((value) => (value ?? 0) / stepSeconds);
}

/** The running total at each step, given the total at the end. */
export function runningTotal(values, totalAtEnd) {
  let sum = totalAtEnd;
  return [...values].reverse().map((value) => {
    const atEnd = sum;
    sum -= value ?? 0;
    return Math.max(0, atEnd);
  }).reverse();
}

/** Repeats the last value for steps without a value. */
export function held(values) {
  let last = null;
  return values.map((value) => (last = value ?? last));
}

/** Groups results by the value of a dimension: `[value, results]`, the largest total first. */
export function by(found, dimension) {
  const groups = new Map();
  for (const one of found) {
    const value = one.dimensions[dimension] ?? "";
    groups.set(value, [...(groups.get(value) ?? []), one]);
  }
  return [...groups].sort(([, a], [, b]) => total(b) - total(a));
}
