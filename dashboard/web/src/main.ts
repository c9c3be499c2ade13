// Wires one connection to the agent to the views.

import { api } from "./api/client";
import { Link } from "./api/link";
import { everySecond, setAgentClock } from "./clock";
import { byId, setText } from "./dom";
import { zone } from "./format";
import { loadLabels } from "./labels";
import { startTheme } from "./theme";
import { allow, lift, startTokenButton } from "./views/actions";
import { startBaseline } from "./views/baseline";
import { Bans } from "./views/bans";
import { startClients } from "./views/clients";
import { Events } from "./views/events";
import { explain } from "./views/explain";
import { startFigures } from "./views/figures";
import { startHeader } from "./views/header";
import { startHealth } from "./views/health";
import { startMachine } from "./views/machine";
import { Notices } from "./views/notices";
import { Traffic } from "./views/traffic";

const EVENTS_AT_START = 60;

/** Kinds of events that change the table of bans. */
const CHANGES_BANS = new Set(["banned", "lifted", "extended", "allowlist_changed", "started"]);

const header = startHeader();
const traffic = new Traffic();
const events = new Events();
const bans = new Bans({
  lift: (ban) => lift(ban.client, () => bans.changed()),
  allow: (ban) => allow(ban.client, () => bans.changed()),
  explain: (ban) => void explain(ban.client),
});
const showClients = startClients((client) => void explain(client));
const showStatus = [startFigures(), startHealth(), startBaseline(), startMachine(), header.status];

const link = new Link({
  onState(state) {
    header.link(state);
    notices.setLink(state);
  },
  onSnapshot({ status, clients }) {
    setAgentClock(status.now_ms);
    for (const show of showStatus) show(status);
    notices.setStatus(status);
    showClients(clients);
    traffic.push(status);
  },
  onNotice(event) {
    events.add(event);
    traffic.mark(event);
    if (CHANGES_BANS.has(event.kind)) bans.changed();
  },
  onGap: reload,
});

const unlock = startTokenButton(() => {
  link.retryNow();
  reload();
});
const notices = new Notices(() => link.retryNow(), unlock);

/** Without them names show as they are in the API; reconnecting fetches them again. */
async function showLabels(): Promise<void> {
  const areNew = await loadLabels().catch(() => false);
  if (areNew) bans.labelsLoaded();
}

/** Fetches everything that is kept rather than streamed. Failing is no fault here: the connection's state shows it, and
 * reconnecting reloads. */
function reload(): void {
  void showLabels();
  bans.changed();
  traffic.reload();
  api
    .recentEvents(EVENTS_AT_START)
    .then((list) => events.replace(list.events))
    .catch(() => undefined);
}

startTheme(byId("theme-button"), () => traffic.recolour());
setText(byId("foot-zone"), `Times are in your zone, ${zone()}.`);
everySecond(() => notices.show());
addEventListener("online", () => link.retryNow());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") link.retryNow();
});
// The labels first, so that no row shows a bare name for a moment.
void showLabels().finally(() => {
  reload();
  void link.run();
});
