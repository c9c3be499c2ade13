// Wires the page: one link to the agent, and views that show what comes over it.

import { api } from "./api/client";
import { Link } from "./api/link";
import { everySecond, setAgentClock } from "./clock";
import { byId, setText } from "./dom";
import { zone } from "./format";
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

const EVENTS_ASKED = 60;

/** Events after which the table of bans is not what it was. */
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

/** Everything that is kept rather than streamed is asked for again. */
function reload(): void {
  bans.changed();
  traffic.reload();
  api
    .recentEvents(EVENTS_ASKED)
    .then((list) => events.replace(list.events))
    // Cut off or locked: the link says so, and coming back reloads.
    .catch(() => undefined);
}

startTheme(byId("theme-button"), () => traffic.recolour());
setText(byId("foot-zone"), `Times are in your zone, ${zone()}.`);
everySecond(() => notices.show());
addEventListener("online", () => link.retryNow());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") link.retryNow();
});
reload();
void link.run();
