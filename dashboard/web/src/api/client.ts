// Requests to `/api/v1`: addresses, the token, time limits, and errors that say what went wrong. Knows no view.

import type {
  BanPage,
  BanSort,
  ClientList,
  EventList,
  Explanation,
  History,
  HistoryRange,
  Reply,
  Status,
  Whoami,
} from "./types";
import { readToken } from "./token";

const BASE = "/api/v1";

/** A read that takes longer says that the agent is in trouble; the page then shows itself cut off. */
const READ_LIMIT_MS = 8_000;

/** A change is committed and enforced before it is answered, which may take a slow iptables a while. */
const CHANGE_LIMIT_MS = 20_000;

/** A request that was refused, or got no answer (`status` 0). */
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
  status: () => read<Status>("/status"),
  clients: (n: number) => read<ClientList>("/clients", { n: String(n) }),
  recentEvents: (limit: number) => read<EventList>("/events/recent", { limit: String(limit) }),
  history: (range: HistoryRange) => read<History>("/history", { range }),
  explain: (client: string) => read<Explanation>("/explain", { client }),
  bans: (query: { q: string; rule: string; sort: BanSort; limit: number; cursor: string | null }) =>
    read<BanPage>("/bans", {
      sort: query.sort,
      limit: String(query.limit),
      ...(query.q === "" ? {} : { q: query.q }),
      ...(query.rule === "" ? {} : { rule: query.rule }),
      ...(query.cursor === null ? {} : { cursor: query.cursor }),
    }),

  unban: (client: string, forget: boolean, reason: string | null) =>
    change("/unban", { clients: [client], forget, reason }),
  allow: (client: string, reason: string | null) => change("/allow", { clients: [client], reason }),

  /** Whether this token is right: 401 is an answer here, everything else that fails is an error. */
  async mayChange(token: string): Promise<boolean> {
    try {
      const answer = await request("/whoami", { headers: { authorization: `Bearer ${token}` } }, READ_LIMIT_MS);
      return ((await answer.json()) as Whoami).may_change;
    } catch (error) {
      if (error instanceof ApiError && error.needsToken) return false;
      throw error;
    }
  },

  /** Opens the event stream; the caller reads the body and ends it through `signal`. */
  async openEvents(lastEventId: string | null, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const headers: Record<string, string> = { accept: "text/event-stream", ...authorization() };
    if (lastEventId !== null) headers["last-event-id"] = lastEventId;
    const answer = await fetchOrExplain(BASE + "/events", { headers, cache: "no-store", signal });
    if (answer.body === null) throw new ApiError(0, "The event stream has no body.");
    return answer.body;
  },
};

function authorization(): Record<string, string> {
  const token = readToken();
  return token === null ? {} : { authorization: `Bearer ${token}` };
}

async function read<T>(path: string, query: Record<string, string> = {}): Promise<T> {
  const search = new URLSearchParams(query).toString();
  const answer = await request(search === "" ? path : `${path}?${search}`, { headers: authorization() }, READ_LIMIT_MS);
  return (await answer.json()) as T;
}

async function change(path: string, body: unknown): Promise<Reply> {
  const headers = { "content-type": "application/json", ...authorization() };
  const answer = await request(path, { method: "POST", headers, body: JSON.stringify(body) }, CHANGE_LIMIT_MS);
  return (await answer.json()) as Reply;
}

function request(path: string, init: RequestInit, limitMs: number): Promise<Response> {
  return fetchOrExplain(BASE + path, { cache: "no-store", ...init, signal: AbortSignal.timeout(limitMs) });
}

async function fetchOrExplain(url: string, init: RequestInit): Promise<Response> {
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
