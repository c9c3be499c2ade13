// Requests to the agent's API, with the token, a time limit, and errors that name the cause.

import { BASE, type BanSort, type Changes, type HistoryRange, type Reads, type RuleName, type Term } from "./types";
import { readToken } from "./token";

/** Within the agent's own limit of 10 s: a slower agent is in trouble, and the page shows that it is disconnected. */
const READ_LIMIT_MS = 8_000;

/** Longer than for reads: a change is committed to the store before it is answered. */
const CHANGE_LIMIT_MS = 20_000;

/** Beside the page, wherever a proxy puts it: below a prefix as well. */
const ROOT = `.${BASE}`;

/** A refused request, or one without an answer (`status` 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }

  get needsToken(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

export const api = {
  status: () => read("/status", {}),
  labels: () => read("/labels", {}),
  allowlist: () => read("/allow", {}),
  canary: () => read("/canary", {}),
  clients: (n: number) => read("/clients", { n }),
  recentEvents: (limit: number) => read("/events/recent", { limit }),
  history: (range: HistoryRange) => read("/history", { range }),
  explain: (client: string) => read("/explain", { client }),
  sites: () => read("/sites", {}),
  labs: () => read("/labs", {}),
  bans: (query: { q: string; rule: RuleName | ""; site: string; sort: BanSort; limit: number; cursor: string | null; imported: boolean }) =>
    read("/bans", {
      sort: query.sort,
      limit: query.limit,
      ...(query.q === "" ? {} : { q: query.q }),
      ...(query.rule === "" ? {} : { rule: query.rule }),
      ...(query.site === "" ? {} : { site: query.site }),
      ...(query.cursor === null ? {} : { cursor: query.cursor }),
      ...(query.imported ? {} : { imported: false }),
    }),

  ban: (client: string, term: Term, reason: string | null) => change("/ban", { clients: [client], term, reason }),
  unban: (client: string, forget: boolean, reason: string | null) =>
    change("/unban", { clients: [client], forget, reason }),
  allow: (client: string, secs: number | null, reason: string | null) => change("/allow", { clients: [client], secs, reason }),
  disallow: (client: string, reason: string | null) => change("/disallow", { clients: [client], reason }),
  pause: (secs: number, reason: string | null) => change("/pause", { secs, reason }),
  resume: (reason: string | null) => change("/resume", { reason }),

  /** Checks a token. 401 is the answer "no"; any other failure is an error. */
  async mayChange(token: string): Promise<boolean> {
    try {
      const answer = await request("/whoami", { headers: { authorization: `Bearer ${token}` } }, READ_LIMIT_MS);
      return ((await answer.json()) as Reads["/whoami"]["answer"]).may_change;
    } catch (error) {
      if (error instanceof ApiError && error.needsToken) return false;
      throw error;
    }
  },

  /** Opens the event stream; the caller reads the body and aborts it through `signal`. */
  async openEvents(lastEventId: string | null, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const headers: Record<string, string> = { accept: "text/event-stream", ...authorization() };
    if (lastEventId !== null) headers["last-event-id"] = lastEventId;
    const answer = await fetchOrThrow(ROOT + "/events", { headers, cache: "no-store", signal });
    if (answer.body === null) throw new ApiError(0, "The event stream has no body.");
    return answer.body;
  },
};

function authorization(): Record<string, string> {
  const token = readToken();
  return token === null ? {} : { authorization: `Bearer ${token}` };
}

async function read<Path extends keyof Reads>(path: Path, query: Reads[Path]["query"]): Promise<Reads[Path]["answer"]> {
  const search = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString();
  const answer = await request(search === "" ? path : `${path}?${search}`, { headers: authorization() }, READ_LIMIT_MS);
  return (await answer.json()) as Reads[Path]["answer"];
}

async function change<Path extends keyof Changes>(path: Path, body: Changes[Path]["body"]): Promise<Changes[Path]["answer"]> {
  const headers = { "content-type": "application/json", ...authorization() };
  const answer = await request(path, { method: "POST", headers, body: JSON.stringify(body) }, CHANGE_LIMIT_MS);
  return (await answer.json()) as Changes[Path]["answer"];
}

function request(path: string, init: RequestInit, limitMs: number): Promise<Response> {
  return fetchOrThrow(ROOT + path, { cache: "no-store", ...init, signal: AbortSignal.timeout(limitMs) });
}

async function fetchOrThrow(url: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(url, init);
  } catch {
    throw new ApiError(0, "The agent does not answer.");
  }
  if (!answer.ok) throw new ApiError(answer.status, await refusal(answer));
  return answer;
}

async function refusal(answer: Response): Promise<string> {
  try {
    return ((await answer.json()) as { message: string }).message;
  } catch {
    return `The agent answered ${answer.status} ${answer.statusText}.`;
  }
}
