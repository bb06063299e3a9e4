// Three versions into one: what I changed since `base`, on top of `theirs`. Where both changed the same value, mine is what the
// preview shows against theirs, and nothing is written before somebody has looked at it.

export function merged(base, mine, theirs) {
  if (same(base, mine)) return theirs;
  if (same(base, theirs)) return mine;
  if (alike(base, mine, theirs)) return mine.map((one, at) => merged(base[at], one, theirs[at]));
  if (!plain(mine) || !plain(theirs)) return mine;
  const before = plain(base) ? base : {};
  const keys = [...new Set([...Object.keys(theirs), ...Object.keys(mine)])];
  const found = {};
  for (const key of keys) {
    const value = taken(before, mine, theirs, key);
    if (value !== undefined) found[key] = value;
  }
  return found;
}

/** One key: taken away by one and untouched by the other, it is gone. */
function taken(before, mine, theirs, key) {
  if (!(key in mine)) return key in before ? undefined : theirs[key];
  if (!(key in theirs)) return key in before && same(before[key], mine[key]) ? undefined : mine[key];
  return merged(before[key], mine[key], theirs[key]);
}

/** Lists of the same length are merged one by one: rules keep their places. */
function alike(...lists) {
  return lists.every((one) => Array.isArray(one) && one.length === lists[0].length && one.every(plain));
}

function same(left, right) {
  return JSON.stringify(left) === JSON.stringify(right);
}

function plain(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}
