// Conditions that the operator must not miss, one line each, worst first. In contrast to an event, a condition is shown for
// as long as it holds.

import type { LinkState } from "../api/link";
import type { Severity, Status, Withheld } from "../api/types";
import { byId, h, icon, Keyed, setText, type IconName } from "../dom";
import { count, plural, span, time } from "../format";
import { ban as banDialog, resume } from "./actions";

interface Notice {
  key: string;
  severity: Severity;
  icon: IconName;
  title: string;
  text: string;
  action?: { label: string; run: () => void };
}

export class Notices {
  private link: LinkState = { kind: "connecting" };
  private status: Status | null = null;
  private readonly list = new Keyed<Notice, NoticeView>(
    byId("notices"),
    (notice) => notice.key + notice.severity,
    (notice) => new NoticeView(notice),
  );

  constructor(
    private readonly retry: () => void,
    private readonly unlock: () => void,
  ) {}

  setLink(link: LinkState): void {
    this.link = link;
    this.show();
  }

  setStatus(status: Status): void {
    this.status = status;
    this.show();
  }

  /** Also called every second, for the countdown to the next attempt. */
  show(): void {
    const rest = this.status === null ? [] : statusNotices(this.status);
    this.list.update([...this.linkNotices(), ...rest]);
  }

  private linkNotices(): Notice[] {
    if (this.link.kind === "locked") {
      const action = { label: "Enter the token", run: this.unlock };
      return [{ key: "locked", severity: "warning", icon: "warn", title: "Locked", text: "The agent listens beyond this machine, so reading needs the operator's token.", action }];
    }
    if (this.link.kind !== "disconnected") return [];
    const seconds = Math.max(0, Math.ceil((this.link.retryAtMs - Date.now()) / 1000));
    const text = `${this.link.why} The page shows the state at ${time(this.link.sinceMs)}; bans stay in the kernel until their end. ${seconds > 0 ? `Retrying in ${seconds} s.` : "Retrying."}`;
    return [{ key: "disconnected", severity: "critical", icon: "warn", title: "Disconnected from the agent", text, action: { label: "Retry now", run: this.retry } }];
  }
}

/** Networks of withheld clients named in one line. */
const NETWORKS_NAMED = 6;

function withheldNotice({ clients, networks }: Withheld, isPaused: boolean): Notice {
  const named = networks.slice(0, NETWORKS_NAMED).map(({ network, clients }) => `${network} (${count(clients)})`);
  const worst = networks[0]?.network;
  return {
    // The button is made once, for one network.
    key: `withheld ${worst}`,
    severity: "critical",
    icon: "warn",
    title: plural(clients, "client gets through", "clients get through"),
    text: `${named.join(", ")}${networks.length > NETWORKS_NAMED ? " and others" : ""}. A rule fired for each, but ${isPaused ? "automatic bans are paused" : "banning so many clients in good standing at once is left to you"}.`,
    ...(worst === undefined ? {} : { action: { label: `Ban ${worst}…`, run: () => banDialog(worst) } }),
  };
}

function statusNotices(status: Status): Notice[] {
  const notices: Notice[] = [];
  const { anomaly } = status.global;
  const { blast_radius: stopped, paused_until_ms: pausedUntil, warm_up: warmUp, frozen, text: detectorText } = status.detector;
  const { withheld } = status;
  if (withheld.clients > 0) notices.push(withheldNotice(withheld, pausedUntil !== null));
  const again = { label: "Resume…", run: () => resume(withheld.clients) };
  // The button is made once: another number of clients makes another.
  if (pausedUntil !== null) {
    const text = `Until ${time(pausedUntil)} rules ban and slow nobody. Bans in force stay.`;
    notices.push({ key: `paused ${withheld.clients}`, severity: "warning", icon: "wait", title: "Automatic bans are paused", text, action: again });
  }
  if (stopped !== null) notices.push({ key: `blast ${withheld.clients}`, severity: "critical", icon: "ban", title: "Automatic bans are stopped", text: stopped, action: again });
  if (anomaly !== null) {
    const text = `${anomaly.condition}, for ${span((status.now_ms - anomaly.since_ms) / 1000)}. It alone bans no client.`;
    notices.push({ key: "anomaly", severity: "critical", icon: "spike", title: "Global traffic anomaly", text });
  }
  if (status.dry_run) {
    notices.push({ key: "dry-run", severity: "warning", icon: "info", title: "Dry run", text: "Bans are decided and recorded, but nothing is dropped." });
  }
  for (const part of status.parts.filter((part) => part.state === "degraded")) {
    notices.push({ key: `part ${part.part}`, severity: "warning", icon: "warn", title: part.label, text: part.text });
  }
  if (warmUp !== null) {
    notices.push({ key: "warm-up", severity: "info", icon: "wait", title: "Learning what is normal here", text: detectorText });
  }
  if (frozen && anomaly === null) {
    notices.push({ key: "frozen", severity: "info", icon: "info", title: "Baseline frozen", text: "It does not learn from unusual traffic." });
  }
  return notices;
}

class NoticeView {
  readonly elements: Element[];
  private readonly text = h("span", { class: "notice-text" });

  constructor(notice: Notice) {
    const button = notice.action === undefined ? null : h("button", { type: "button", class: "quiet", click: notice.action.run }, notice.action.label);
    this.elements = [
      h("div", { class: "notice", "data-severity": notice.severity }, icon(notice.icon), h("p", {}, h("strong", {}, notice.title), " ", this.text), button),
    ];
  }

  update(notice: Notice): void {
    setText(this.text, notice.text);
  }
}
