// Serves dist/ with a fake agent, for developing the page and for its browser tests.
//
//     node dev-server/server.mjs [scenario] [port]
//
// with the token `dev-token`. The headers are the real ones: the policy is read out of dashboard/src/lib.rs.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { FakeAgent, SCENARIOS } from "./fake-agent.mjs";

export const TOKEN = "dev-token";

const here = dirname(fileURLToPath(import.meta.url));
const FILES = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/app.js": ["app.js", "text/javascript; charset=utf-8"],
  "/favicon.svg": ["favicon.svg", "image/svg+xml"],
};

/** Starts a server for `agent` on loopback; port 0 takes a free one. */
export async function serve(agent, port = 0, { prefix = "" } = {}) {
  const policy = readPolicy();
  const options = { streams: true, locked: false };
  const server = createServer((request, response) => {
    // As a proxy does that serves the page below a path.
    if (!request.url.startsWith(prefix)) return json(response, 404, { code: "not_found", message: "outside of the prefix" });
    request.url = request.url.slice(prefix.length);
    route(agent, options, policy, request, response).catch((error) => json(response, 500, { code: "internal", message: String(error) }));
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return {
    agent,
    options,
    port: server.address().port,
    url: `http://127.0.0.1:${server.address().port}${prefix}/`,
    /** Ends every connection at once, as a killed agent does. */
    stop: () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      return closed;
    },
  };
}

function readPolicy() {
  const source = readFileSync(join(here, "../../src/lib.rs"), "utf8");
  const [, pieces] = /CONTENT_SECURITY_POLICY: &str = concat!\(\n(.*?)\n\);/s.exec(source) ?? [];
  if (pieces === undefined) throw new Error("dashboard/src/lib.rs has no CONTENT_SECURITY_POLICY");
  const [, hash] = /<style data-hash="([^"]*)"/.exec(readFileSync(join(here, "../dist/index.html"), "utf8")) ?? [];
  const literals = pieces.replace('env!("SHIELD_PAGE_STYLE")', () => `"'${hash}'"`);
  return [...literals.matchAll(/"([^"]*)"/g)].map(([, text]) => text.replace(/\\\n\s*/g, "")).join("");
}

async function route(agent, options, policy, request, response) {
  const url = new URL(request.url, "http://127.0.0.1");
  const file = FILES[url.pathname];
  if (file !== undefined) {
    response.writeHead(200, { "content-type": file[1], "content-security-policy": policy, "cache-control": "no-cache" });
    response.end(readFileSync(join(here, "../dist", file[0])));
  } else if (options.locked && !isAuthorised(request)) {
    unauthorised(response);
  } else if (url.pathname === "/api/v1/events") {
    if (options.streams) stream(agent, request, response);
    else json(response, 503, { code: "too_many_streams", message: "Too many event streams are open; poll /status instead." });
  } else if (request.method === "POST") {
    await change(agent, url.pathname, request, response);
  } else {
    read(agent, url, request, response);
  }
}

function read(agent, { pathname, searchParams }, request, response) {
  const number = (name, fallback) => Number(searchParams.get(name) ?? fallback);
  switch (pathname) {
    case "/api/v1/whoami":
      if (request.headers.authorization !== undefined && !isAuthorised(request)) return unauthorised(response);
      return json(response, 200, { transport: "tcp", may_change: isAuthorised(request), token_for_reads: false });
    case "/api/v1/status":
      return json(response, 200, agent.status());
    case "/api/v1/labels":
      return json(response, 200, agent.labels());
    case "/api/v1/clients":
      return json(response, 200, agent.clients(number("n", 10)));
    case "/api/v1/bans":
      return json(response, 200, agent.bans({ q: searchParams.get("q") ?? "", rule: searchParams.get("rule") ?? "", site: searchParams.get("site") ?? "", sort: searchParams.get("sort") ?? "since", limit: number("limit", 50), cursor: searchParams.get("cursor"), imported: searchParams.get("imported") !== "false" }));
    case "/api/v1/sites":
      return json(response, 200, agent.sites());
    case "/api/v1/history":
      return json(response, 200, agent.history(searchParams.get("range") ?? "30m"));
    case "/api/v1/events/recent":
      return json(response, 200, agent.recentEvents(number("limit", 100)));
    case "/api/v1/allow":
      return json(response, 200, agent.allowlist());
    case "/api/v1/canary":
      return json(response, 200, agent.canaryReport());
    case "/api/v1/explain":
      return json(response, 200, forReader(agent.explain(searchParams.get("client")), isAuthorised(request)));
    default:
      return json(response, 404, { code: "not_found", message: `There is no ${pathname}.` });
  }
}

/** Lines of the log are for those alone who may change something. */
function forReader(explanation, mayChange) {
  const { ban } = explanation;
  if (mayChange || ban === null || ban.evidence === null) return explanation;
  return { ...explanation, ban: { ...ban, evidence: { ...ban.evidence, lines: [] } } };
}

async function change(agent, pathname, request, response) {
  if (!isAuthorised(request)) return unauthorised(response);
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { clients, term, secs, reason } = JSON.parse(Buffer.concat(chunks).toString());
  if (pathname === "/api/v1/ban") return json(response, 200, agent.banAll(clients, term));
  if (pathname === "/api/v1/unban") return json(response, 200, agent.unban(clients));
  if (pathname === "/api/v1/allow") return json(response, 200, agent.allow(clients, secs ?? null, reason ?? null));
  if (pathname === "/api/v1/disallow") return json(response, 200, agent.disallow(clients));
  if (pathname === "/api/v1/pause") return json(response, 200, agent.pause(secs));
  if (pathname === "/api/v1/resume") return json(response, 200, agent.resume());
  return json(response, 404, { code: "not_found", message: `There is no ${pathname}.` });
}

function stream(agent, request, response) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  const snapshot = () => response.write(`event: snapshot\ndata: ${JSON.stringify({ status: agent.status(), clients: agent.clients(10) })}\n\n`);
  const notice = (event) => response.write(`event: notice\nid: ${event.id}\ndata: ${JSON.stringify(event)}\n\n`);
  const last = Number(request.headers["last-event-id"] ?? Number.POSITIVE_INFINITY);
  for (const event of agent.events.filter(({ id }) => id > last)) notice(event);
  snapshot();
  const timer = setInterval(snapshot, 1000);
  agent.listeners.add(notice);
  response.on("close", () => {
    clearInterval(timer);
    agent.listeners.delete(notice);
  });
}

function isAuthorised(request) {
  return request.headers.authorization === `Bearer ${TOKEN}`;
}

function unauthorised(response) {
  json(response, 401, { code: "unauthorized", message: "The token is missing or wrong." });
}

function json(response, status, body) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(JSON.stringify(body));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [scenario = "attack", port = "8081"] = process.argv.slice(2);
  const { url } = await serve(new FakeAgent(scenario), Number(port));
  console.log(`${scenario} (of ${Object.keys(SCENARIOS).join(", ")}) at ${url}, token ${TOKEN}`);
}
