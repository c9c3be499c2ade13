// Wires one connection to the agent to the views.

import { api } from "./api/client";
import { Link } from "./api/link";
import { everySecond, setAgentClock } from "./clock";
import { byId, setText } from "./dom";
import { zone } from "./format";
import { loadLabels } from "./labels";
import { readPlace, writePlace } from "./place";
import { startTheme } from "./theme";
import { onChange, startTokenButton } from "./views/actions";
import { isAddress } from "./views/addresses";
import { startAllowlist } from "./views/allowlist";
import { Attackers } from "./views/attackers";
import { startBaseline } from "./views/baseline";
import { Bans } from "./views/bans";
import { startCanary } from "./views/canary";
import { startClients } from "./views/clients";
import { Events } from "./views/events";
import { explain } from "./views/explain";
import { startFigures } from "./views/figures";
import { startHeader } from "./views/header";
import { startHealth } from "./views/health";
import { startMachine } from "./views/machine";
import { Notices } from "./views/notices";
import { Labs } from "./views/labs";
import { Sites } from "./views/sites";
import { Traffic } from "./views/traffic";

const EVENTS_AT_START = 100;

/** Kinds of events that change the table of bans. */
const CHANGES_BANS = new Set(["banned", "would_ban", "lifted", "extended", "allowlist_changed", "started"]);

/** A search starts when nothing was typed for this long. */
const TYPING_MS = 200;

const search = byId<HTMLInputElement>("search");

/** The client whose explanation is open. */
let explained: string | null = null;

function show(client: string): void {
  explained = client;
  keepPlace();
  void explain(client, () => {
    explained = null;
    keepPlace();
  });
}

const header = startHeader();
const events = new Events();
const traffic = new Traffic(
  () => keepPlace(),
  ({ from, to }) => events.between({ fromMs: from * 1000, toMs: to * 1000 }),
);
const bans = new Bans(show, () => keepPlace());
const attackers = new Attackers(show, find);
const labs = new Labs();
const sites = new Sites((site) => {
  bans.setSite(site);
  attackers.setSite(site);
  events.setSite(site);
  keepPlace();
});
const showClients = startClients(show);
const lookAtAllowlist = startAllowlist();
const lookAtCanary = startCanary(show);
const showStatus = [startFigures(), startHealth(), startBaseline(), startMachine(), header.status];

function keepPlace(): void {
  const range = traffic.range === "live" ? null : traffic.range;
  writePlace({ client: explained, range, q: search.value.trim(), rule: bans.chosenRule, site: sites.chosen });
}

/** Searches all lists. */
function find(text: string): void {
  search.value = text;
  const needle = text.trim();
  bans.find(needle);
  attackers.filter(needle);
  events.filter(needle);
}

let typing: ReturnType<typeof setTimeout> | undefined;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => find(search.value), TYPING_MS);
});
search.addEventListener("keydown", (event) => {
  const text = search.value.trim();
  if (event.key === "Enter" && isAddress(text)) show(text);
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]") !== null) return;
  event.preventDefault();
  search.focus();
});

const link = new Link({
  onState(state) {
    header.link(state);
    notices.setLink(state);
  },
  onSnapshot({ status, clients }) {
    setAgentClock(status.now_ms);
    for (const show of showStatus) show(status);
    notices.setStatus(status);
    attackers.setStatus(status);
    bans.setDry(status.dry_run);
    showClients(clients, status.dry_run);
    traffic.push(status);
  },
  onNotice(event) {
    events.add(event);
    traffic.mark(event);
    if (CHANGES_BANS.has(event.kind)) bansChanged();
    if (event.kind === "allowlist_changed") lookAtAllowlist();
  },
  onGap: reload,
});

const unlock = startTokenButton(() => {
  link.retryNow();
  reload();
});
const notices = new Notices(() => link.retryNow(), unlock);

let looking: ReturnType<typeof setTimeout> | undefined;

/** Fetches the bans again soon, once for a burst of changes. */
function bansChanged(): void {
  bans.changed();
  clearTimeout(looking);
  looking = setTimeout(() => {
    void attackers.look();
    void sites.look();
    void labs.look();
  }, TYPING_MS);
}

/** Without them names show as they are in the API; reconnecting fetches them again. */
async function showLabels(): Promise<void> {
  const areNew = await loadLabels().catch(() => false);
  if (areNew) bans.labelsLoaded();
}

/** Fetches everything that is kept rather than streamed. Failing is no fault here: the connection's state shows it, and
 * reconnecting reloads. */
function reload(): void {
  void showLabels();
  lookAtAllowlist();
  lookAtCanary();
  bansChanged();
  traffic.reload();
  api
    .recentEvents(EVENTS_AT_START)
    .then((list) => events.replace(list.events))
    .catch(() => undefined);
}

/** Shows what the address asks for. */
function goToPlace(): void {
  const place = readPlace();
  traffic.setRange(place.get("range") ?? null);
  const [q, rule, client] = [place.get("q"), place.get("rule"), place.get("client")];
  sites.choose(place.get("site") ?? "");
  if (rule !== undefined) bans.choose(rule);
  if (q !== undefined) find(q);
  if (client !== undefined) show(client);
}

onChange(bansChanged);
startTheme(byId("theme-button"), () => traffic.recolour());
setText(byId("foot-zone"), `Times are in your zone, ${zone()}.`);
everySecond(() => notices.show());
addEventListener("online", () => link.retryNow());
addEventListener("hashchange", goToPlace);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") link.retryNow();
});
// The labels first, so that no row shows a bare name for a moment.
void showLabels().finally(() => {
  reload();
  goToPlace();
  void link.run();
});
