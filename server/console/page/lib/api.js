// The one door to the gateway. The token lives in this tab's sessionStorage and travels in a header, never in an address.

const BASE = new URL("../", document.baseURI);
const TOKEN = "mdrec.token";
const OPERATOR = "mdrec.operator";

const remembered = new Map(); // path -> {etag, body, headers}: what a 304 stands for

/** An answer other than success, in the words of the gateway (RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || `the gateway answered ${status}`);
    this.status = status;
    this.kind = String(body?.type ?? "").replace("urn:mdrec:problem:", "");
    this.body = body ?? {};
  }
}

export const session = {
  get token() {
    return sessionStorage.getItem(TOKEN);
  },
  get operator() {
    return sessionStorage.getItem(OPERATOR) ?? "";
  },
  begin(token, operator) {
    sessionStorage.setItem(TOKEN, token);
    sessionStorage.setItem(OPERATOR, operator);
  },
  end() {
    sessionStorage.removeItem(TOKEN);
    sessionStorage.removeItem(OPERATOR);
    remembered.clear();
  },
};

/** Called when a token is no longer taken. */
export const signedOut = { call: () => {} };

/** Who the token's operator is; only then is the token kept. Raises Problem. */
export async function enter(token, operator) {
  const me = await answered(await ask("admin/v1/me", { as: { token, operator } }));
  session.begin(token, me.operator);
  return me.operator;
}

/** {body, etag} of a GET; what did not change is not sent again. */
export async function read(path, { signal } = {}) {
  const known = remembered.get(path);
  const response = await ask(path, { signal, headers: known ? { "If-None-Match": known.etag } : {} });
  if (response.status === 304 && known) return known;
  const found = { body: await answered(response), etag: response.headers.get("ETag") };
  if (found.etag) remembered.set(path, found);
  return found;
}

/** {body, etag} of a write. why: goes into the audit where the body has no place for it; match: the ETag it was made from. */
export async function send(method, path, body, { match, why, dryRun, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (match) headers["If-Match"] = match;
  if (why) headers["X-Why"] = spelled(why);
  const address = dryRun ? `${path}?dry_run=true` : path;
  const response = await ask(address, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  return { body: await answered(response), etag: response.headers.get("ETag") };
}

let document_; // of the API, asked once

/** Does this gateway have the path, written as its OpenAPI document does? */
export async function has(path) {
  document_ ??= read("openapi.json").then(({ body }) => body.paths);
  return path in (await document_.catch(() => ((document_ = undefined), {})));
}

/** A part of a path: everything but letters and digits is escaped. */
export function part(text) {
  return encodeURIComponent(text);
}

/** Headers carry Latin-1; what does not fit is written as RFC 8187 has it. */
export function spelled(text) {
  return /^[\x20-\x7e]*$/.test(text) ? text : `UTF-8''${encodeURIComponent(text)}`;
}

/** as: other credentials than the session's, whose refusal ends no session. */
async function ask(path, { as, ...options }) {
  const headers = { Accept: "application/json", ...options.headers };
  const { token, operator } = as ?? session;
  const guarded = path.startsWith("admin/");
  if (guarded && token) {
    headers.Authorization = `Bearer ${token}`;
    if (operator) headers["X-Operator"] = spelled(operator);
  }
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The gateway cannot be reached. Is it running, and are you online?" });
  }
  if (response.status === 401 && guarded && !as && session.token) {
    session.end();
    signedOut.call();
  }
  return response;
}

async function answered(response) {
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new Problem(response.status, { detail: "the gateway's answer is not JSON" });
  }
  if (!response.ok) throw new Problem(response.status, body);
  return body;
}
