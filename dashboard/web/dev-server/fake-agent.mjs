// A fake agent for developing and testing the page: the same API (docs/openapi.json), invented data, documentation
// addresses only. Not shipped, and not used by the tests of the agent.

const MINUTE = 60;
const HOUR = 3600;
const WINDOW_SECS = 60;

/** Scenarios; `bans` is the number of bans in force. */
export const SCENARIOS = {
  attack: { bans: 7, attack: true },
  calm: { bans: 3 },
  million: { bans: 1_000_000, attack: true },
  empty: { bans: 0, quiet: true },
  warming: { bans: 0, warming: true },
  degraded: { bans: 4, degraded: true, attack: true },
  overrun: { bans: 3, attack: true, withheld: true, leaking: true },
  imported: { bans: 7, imported: 3_000, attack: true },
  sites: { bans: 7, attack: true, sites: ["shop.example.org", "blog.example.org", "api.example.org", "a-rather-long-name-of-a-campaign.marketing.example.org"] },
  dry: { bans: 4, attack: true, dry: true },
};

const RULES = ["z_score", "probing", "error_surge", "rate_multiplier", "flood", "behaviour", "network", "operator", "imported"];
const PROBED = ["/wp-login.php", "/.env", "/xmlrpc.php", "/.git/config", "/phpmyadmin/index.php", "/<script>alert(document.domain)</script>"];

/** What clients ask for, by the rule they fall foul of. */
const PATHS = {
  probing: ["/.env", "/.git/config", "/phpmyadmin/index.php", "/backup.zip", "/.aws/credentials"],
  error_surge: ["/wp-login.php", "/xmlrpc.php"],
  flood: ["/search?q=a", "/"],
  z_score: ["/<script>alert(document.domain)</script>", "/search?q=a"],
  behaviour: ["/products/1041", "/products/1042", "/products/1043"],
};

export class FakeAgent {
  constructor(scenario = "attack", { now = Date.now } = {}) {
    this.scenario = SCENARIOS[scenario];
    if (this.scenario === undefined) throw new Error(`no scenario ${scenario}; there are ${Object.keys(SCENARIOS).join(", ")}`);
    this.now = now;
    this.startedMs = now() - 6 * 24 * HOUR * 1000;
    this.lifted = new Set();
    this.allowed = new Set();
    /** What operators allowed, with its note and its end. */
    this.allowedUntil = new Map();
    /** What a canary differs in from none. */
    this.canary = {};
    this.pausedUntil = null;
    this.stopped = this.scenario.withheld === true;
    this.added = [];
    this.events = [];
    this.nextEvent = 1;
    this.listeners = new Set();
    this.storyEvents();
  }

  // --- traffic -----------------------------------------------------------------------------------------------------

  rateAt(secs) {
    if (this.scenario.quiet) return 0;
    const base = meanAt(secs);
    const noise = (hash(Math.floor(secs / 2)) - 0.5) * 0.5 + (hash(Math.floor(secs / 17)) - 0.5) * 0.7;
    return Math.max(0, base * (1 + 0.35 * noise) + this.surgeAt(secs));
  }

  /** An attack that came up four minutes ago, and one two hours ago. */
  surgeAt(secs) {
    if (!this.scenario.attack) return 0;
    const ago = this.startOfShow() - secs;
    const bump = (from, to, height) => (ago < from && ago > to ? height * Math.sin((Math.PI * (from - ago)) / (from - to)) : 0);
    return bump(260, 120, 7.5) + bump(1320, 1180, 4) + bump(2 * HOUR, 2 * HOUR - 900, 6) + bump(9 * HOUR, 9 * HOUR - 1200, 5);
  }

  /** What of the rate banned clients asked. */
  bannedAt(secs) {
    return 0.85 * this.surgeAt(secs);
  }

  seconds(end) {
    const at = Array.from({ length: WINDOW_SECS }, (_, ago) => end - WINDOW_SECS + 1 + ago);
    const noisy = (value, secs) => Math.max(0, Math.round(value * (0.5 + hash(secs + 99))));
    const ofBanned = at.map((secs) => noisy(this.bannedAt(secs), secs));
    return { end_ms: end * 1000, requests: at.map((secs, which) => ofBanned[which] + noisy(this.rateAt(secs) - this.bannedAt(secs), secs + 1)), of_banned: ofBanned };
  }

  attacks() {
    if (this.scenario.withheld) return { probing: 3 };
    if (!this.scenario.attack) return {};
    return { floods: 4, probing: 3 };
  }

  startOfShow() {
    this.show ??= this.now() / 1000;
    return this.show;
  }

  droppedAt(secs) {
    if (!this.scenario.attack || this.scenario.dry) return 0;
    const ago = this.startOfShow() - secs;
    const on = (from, level) => (ago < from ? level * Math.exp(-(from - ago) / 900) : 0);
    const steady = on(215, 4200) + on(1260, 700);
    return Math.max(0, steady * (0.85 + 0.3 * hash(Math.floor(secs / 3) + 7)));
  }

  // --- the API's answers -------------------------------------------------------------------------------------------

  status() {
    const now = this.now();
    const secs = now / 1000;
    const { scenario } = this;
    const rate = this.rateAt(secs);
    const active = this.activeBans();
    const packets = Math.round(8_412_000 + (secs - this.startOfShow()) * this.droppedAt(secs));
    const surging = this.surgeAt(secs) > 3;
    const parts = this.parts();
    return {
      version: "0.1.0",
      now_ms: now,
      started_ms: this.startedMs,
      dry_run: scenario.dry === true,
      attacks: this.attacks(),
      posture: this.posture(rate),
      withheld: this.stopped
        ? { clients: 48, networks: [{ network: "203.0.113.0/24", clients: 46 }, { network: "2001:db8:77::/48", clients: 2 }] }
        : { clients: 0, networks: [] },
      health: scenario.withheld || scenario.degraded ? "degraded" : scenario.warming ? "waiting" : "ok",
      parts,
      detector: {
        ...detectorState(scenario, surging),
        profile: "default",
        reference: "adaptive",
        warm_up: scenario.warming ? { remaining_secs: Math.max(0, Math.round(1_260 - (secs - this.startOfShow()))) } : null,
        frozen: surging,
        paused_until_ms: this.pausedUntil,
        blast_radius: this.stopped ? "rules fire for too many clients in good standing: 48 of 61 within 10 min (max_share = 0.2, always_allowed = 1); is the site broken?" : null,
        clients: scenario.quiet ? 0 : 184 + Math.round(20 * hash(Math.floor(secs / 5))),
        max_clients: 200_000,
        evicted: 0,
      },
      global: {
        rate,
        error_rate: rate * (surging ? 0.31 : 0.04),
        banned_rate: this.bannedAt(secs),
        window_secs: WINDOW_SECS,
        seconds: this.seconds(Math.floor(secs)),
        anomaly: surging ? { since_ms: now - 48_000, condition: `${rate.toFixed(2)} req/s server-wide, 4.71 standard deviations above the usual 2.10 req/s` } : null,
      },
      baseline: {
        mean: scenario.quiet ? 0.1 : meanAt(secs),
        stddev: scenario.quiet ? 0.1 : 0.62,
        error_mean: scenario.quiet ? 0 : 0.11,
        source: scenario.warming ? "warm_up" : scenario.quiet ? "floor" : "hour_slot",
        samples: scenario.warming ? 540 : scenario.quiet ? 0 : 25_200,
        client_mean: scenario.warming || scenario.quiet ? null : 0.08,
        client_stddev: scenario.warming || scenario.quiet ? null : 0.11,
      },
      hour_profile: hourProfile(scenario),
      totals: { requests: 18_204_311, errors: 740_120, rejected: 212, salvaged: 17, bans: 4_181 + this.added.length, lifts: 4_174 + this.lifted.size },
      rejected: { malformed: 212 },
      bans: { active, permanent: Math.min(active, Math.ceil(active / 9)) },
      slowed: { active: 0, since_start: 0 },
      dropped: {
        packets,
        bytes: packets * 74,
        packets_per_sec: this.droppedAt(secs),
        bytes_per_sec: this.droppedAt(secs) * 74,
        by_enforcer: [{ enforcer: "xdp", packets, bytes: packets * 74 }],
      },
      agent: { cpu_percent: 0.8 + hash(Math.floor(secs)), memory_bytes: 41_300_000, uptime_secs: Math.floor((now - this.startedMs) / 1000), threads: 9 },
      host: {
        name: "web-01.example.net",
        cpu_percent: 11 + 6 * hash(Math.floor(secs / 2)),
        cores: 8,
        load_1min: 0.74,
        memory_used_bytes: 5.1e9,
        memory_total_bytes: 16.6e9,
        uptime_secs: 41 * 24 * HOUR + 7 * HOUR,
      },
    };
  }

  posture(rate) {
    const { scenario } = this;
    const traffic = `${rate.toFixed(2)} req/s`;
    if (scenario.withheld) {
      return { state: "attack_unhandled", title: "Under attack, NOT handled", text: `48 clients get through, because automatic bans are stopped; made 3 bans in 5 min (3 for probing); ${traffic}, usual` };
    }
    if (scenario.attack) {
      const text = `made 7 bans in 5 min (4 for floods, 3 for probing); 3,320 packets/s dropped; ${traffic}, usual${scenario.degraded ? "; degraded: iptables" : ""}`;
      return { state: "attack_handled", title: "Under attack, handled", text };
    }
    if (scenario.warming) return { state: "learning", title: "Learning", text: `21 min left; until then only floods, probing and failed logins lead to bans; ${traffic}` };
    if (scenario.quiet) return { state: "blind", title: "Blind", text: "no request is judged: Log access.log: the log is empty so far" };
    return { state: "quiet", title: "Quiet", text: `no attack within 5 min; ${traffic}, usual` };
  }

  parts() {
    const { scenario } = this;
    return [
      { part: "source:/var/log/nginx/access.log", label: "Log access.log", state: scenario.quiet ? "waiting" : "active", text: scenario.quiet ? "the log is empty so far" : "read to its end, 0.2 s behind" },
      scenario.degraded
        ? { part: "iptables", label: "iptables", state: "degraded", text: "inactive, retrying: could not write the IPv4 chain SHIELD: another process holds the xtables lock" }
        : { part: "iptables", label: "iptables", state: "active", text: `rules in SHIELD (v4, v6), ${Math.min(this.activeBans(), 512)} clients` },
      { part: "xdp", label: "XDP", state: "active", text: "native on eth0, pinned" },
      { part: "store", label: "Store", state: "active", text: "/var/lib/shield/shield.db, 3.1 MiB" },
      { part: "slack", label: "Slack", state: "off", text: "no webhook in the configuration" },
    ];
  }

  clients(n) {
    if (this.scenario.quiet) return { window_secs: WINDOW_SECS, now_ms: this.now(), clients: [] };
    const secs = Math.floor(this.now() / 1000);
    const row = (client, requests, errors, z, state) => ({ client, rate: requests / WINDOW_SECS, requests, errors, z_score: z, state });
    const wobble = (at, base) => Math.round(base * (0.9 + 0.2 * hash(secs + at)));
    const quiet = (at) => {
      const requests = wobble(at, 26 - at * 2.3);
      return row(at === 3 ? "2001:db8:4:19::/64" : `198.51.100.${20 + at * 7}`, requests, at % 3 === 0 ? 1 : 0, requests / 60 / 0.11 - 0.7, at === 2 ? "allowed" : "normal");
    };
    const loud = this.scenario.attack
      ? [row("203.0.113.77", wobble(50, 223), wobble(51, 201), 33.1, this.isBanned("203.0.113.77") ? "banned" : "anomalous"), row("192.0.2.14", wobble(52, 61), 44, 8.5, this.isBanned("192.0.2.14") ? "banned" : "anomalous")]
      : [];
    return { window_secs: WINDOW_SECS, now_ms: this.now(), clients: [...loud, ...Array.from({ length: 10 }, (_, at) => quiet(at))].slice(0, n) };
  }

  /** Which site a client asked for: each one of them. */
  siteOf(client) {
    const { sites } = this.scenario;
    return sites === undefined ? undefined : (this.added.find((ban) => ban.client === client)?.site ?? sites[number(client) % 2]);
  }

  sites() {
    const requests = (share) => ({ requests: Math.round(18_204_311 * share), client_errors: Math.round(640_000 * share), server_errors: Math.round(3_120 * share), requests_last_minute: Math.round(410 * share), errors_last_minute: Math.round(22 * share) });
    const none = requests(0);
    const { sites = [] } = this.scenario;
    const banned = (site) => this.keys().filter((client) => this.siteOf(client) === site).length;
    const activity = (site, at) => ({ site, ...requests(0.6 / 2 ** at), bans: banned(site), attackers: at < 2 ? banned(site) : 0 });
    return { sites: sites.map(activity), other: sites.length > 0 ? requests(0.01) : none, unnamed: none, now_ms: this.now() };
  }

  bans({ q, rule, site, sort, limit, cursor, imported }) {
    const matching = this.matching(q.toLowerCase(), rule, sort);
    const found = site === "" ? matching : matching.filter((client) => this.siteOf(client) === site);
    const all = imported || this.scenario.imported === undefined ? found : found.filter((client) => this.ruleOf(client) !== "imported" || this.added.some((ban) => ban.client === client));
    const from = cursor === null ? 0 : Number(cursor);
    const next = from + limit < all.length ? String(from + limit) : null;
    return { bans: all.slice(from, from + limit).map((key) => this.ban(key)), total: all.length, next, now_ms: this.now() };
  }

  history(range) {
    const step = range === "24h" ? 60 : 2;
    const points = range === "24h" ? 1440 : 900;
    const end = Math.floor(this.now() / 1000 / step) * step;
    const at = Array.from({ length: points }, (_, index) => end - (points - 1 - index) * step);
    const column = (value) => at.map((secs) => (this.scenario.warming && secs < end - 540 ? null : value(secs)));
    const marks = this.events.map((event) => ({ at_ms: event.at_ms, kind: MARKS[event.kind], count: 1, text: event.text })).filter((mark) => mark.kind !== undefined);
    if (range === "24h" && this.scenario.attack) marks.unshift({ at_ms: (end - 9 * HOUR + 400) * 1000, kind: "bans", count: 4, text: "4 bans" });
    return {
      range,
      step_secs: step,
      at_ms: at.map((secs) => secs * 1000),
      rate: column((secs) => this.rateAt(secs)),
      error_rate: column((secs) => this.rateAt(secs) * (this.surgeAt(secs) > 1 ? 0.3 : 0.04)),
      banned_rate: column((secs) => this.bannedAt(secs)),
      mean: column((secs) => (this.scenario.quiet ? 0.1 : meanAt(secs))),
      stddev: column(() => (this.scenario.quiet ? 0.1 : 0.62)),
      dropped_packets_per_sec: column((secs) => this.droppedAt(secs)),
      dropped_bytes_per_sec: column((secs) => this.droppedAt(secs) * 74),
      active_bans: column(() => this.activeBans()),
      marks: marks.filter((mark) => mark.at_ms >= (at[0] ?? 0) * 1000),
    };
  }

  explain(client) {
    const ban = this.isBanned(client) ? this.ban(client) : null;
    return {
      client,
      at_ms: this.now(),
      words: ban?.words ?? `${client} is not banned: it looks like this site's other clients.`,
      ban,
      allowed: this.allowed.has(client) ? [{ network: client, reason: "operator", words: "allowed by an operator" }] : [],
      window: { secs: WINDOW_SECS, requests: 26, errors: 1, rate: 26 / 60 },
      reference: { mean: 0.08, stddev: 0.11, source: "hour_slot" },
      rules: [
        { rule: "z_score", fires: ban !== null, not_asked: null, measures: [{ name: "z_score", value: 3.1, threshold: 12 }], words: ban === null ? "does not fire: 3.1 standard deviations above the usual rate (limit 12)" : "fires: 33.1 standard deviations above the usual rate (limit 12)" },
        { rule: "probing", fires: false, not_asked: null, measures: [{ name: "failed_paths_60s", value: 1, threshold: 10 }], words: "does not fire: 1 failed request in 60 s (limit 10)" },
      ],
      top_paths: [{ path: "/", count: 9 }, { path: "/feed.xml", count: 6 }],
      offences: { count: ban?.offence ?? 0, last_ms: null },
      history: [],
    };
  }

  recentEvents(limit) {
    return { events: this.events.slice(-limit).reverse(), next: null };
  }

  // --- changes -----------------------------------------------------------------------------------------------------

  /** A new ban, now, for `secs`. */
  makeBan(client, { secs = 600, rule = "z_score", path = "/", site } = {}) {
    this.lifted.delete(client);
    this.added = [{ client, secs, rule, path, site, sinceMs: this.now() }, ...this.added.filter((ban) => ban.client !== client)];
    this.order = undefined;
    this.happened("banned", "warning", client, `Banned ${client} for ${secs / MINUTE} min: z-score=5.43 > threshold=2.0, most requested ${path}`);
  }

  banAll(clients, term) {
    clients.forEach((client) => this.makeBan(client, { secs: term === "permanent" ? 1e9 : term.secs, rule: "operator" }));
    return { ok: true, results: clients.map((client) => ({ client, ok: true, message: "banned" })) };
  }

  unban(clients) {
    return { results: clients.map((client) => this.lift(client, "lifted", `Lifted the ban of ${client}: by an operator`)) };
  }

  allowlist() {
    const operators = [...this.allowedUntil].map(([network, { until, note }]) => ({ network, reason: "operator", words: "allowed by an operator", ...(note === null ? {} : { note }), ...(until === null ? {} : { until_ms: until }) }));
    const found = [{ network: "127.0.0.0/8", reason: "special", words: "a loopback, link-local, multicast or unspecified address" }, { network: "192.0.2.1/32", reason: "gateway", words: "a gateway of this host" }];
    return { entries: [...found, ...operators] };
  }

  canaryReport() {
    const site = { answers: 0, errors: 0, p99_ms: null };
    const figures = { observed_secs: 0, lines: 0, lost_lines: 0, is_whole: true, clients: 0, live_bans: 0, canary_bans: 0, only_canary: 0, only_live: 0, known_good: 0, search_engines: 0, served_strangers: 0, canary_slowed: 0, verdict_p99_us: null, live_verdict_p99_us: null, site };
    const none = { state: "none", name: null, started_ms: null, ns_per_line: 0, client_bytes: 0, differing: [], refusals: [] };
    return { ...none, ...this.canary, figures: { ...figures, ...this.canary.figures } };
  }

  disallow(clients) {
    return {
      results: clients.map((client) => {
        this.allowed.delete(client);
        const ok = this.allowedUntil.delete(client);
        this.happened("allowlist_changed", "info", client, `${client} removed from the allowlist`);
        return { client, ok, message: ok ? "no longer allowed" : "was not on the allowlist" };
      }),
    };
  }

  pause(secs) {
    this.pausedUntil = this.now() + secs * 1000;
    return { until_ms: this.pausedUntil };
  }

  resume() {
    const results = this.stopped ? [{ client: "203.0.113.7", ok: true, message: "banned for 10 min" }] : [];
    const answer = { was_paused: this.pausedUntil !== null, was_stopped: this.stopped, results };
    this.pausedUntil = null;
    this.stopped = false;
    return answer;
  }

  allow(clients, secs = null, note = null) {
    return {
      results: clients.map((client) => {
        this.allowed.add(client);
        this.allowedUntil.set(client, { until: secs === null ? null : this.now() + secs * 1000, note });
        if (this.isBanned(client)) this.lifted.add(client);
        this.order = undefined;
        this.happened("allowlist_changed", "info", client, `${client} is always allowed now`);
        return { client, ok: true, message: "allowed; its ban was lifted" };
      }),
    };
  }

  lift(client, kind, text) {
    const was = this.isBanned(client);
    if (was) {
      this.lifted.add(client);
      this.order = undefined;
      this.happened(kind, "info", client, text);
    }
    return { client, ok: was, message: was ? "lifted" : "was not banned" };
  }

  happened(kind, severity, client, text, atMs = this.now()) {
    const event = { id: this.nextEvent++, at_ms: atMs, kind, severity, client, text, data: { event: kind, ...(kind === "banned" && this.scenario.sites !== undefined ? { evidence: { sites: [this.siteOf(client)] } } : {}) } };
    this.events.push(event);
    for (const listener of this.listeners) listener(event);
  }

  labels() {
    return LABELS;
  }

  // --- invented bans -----------------------------------------------------------------------------------------------

  activeBans() {
    return this.keys().length;
  }

  isBanned(client) {
    return this.keys().includes(client);
  }

  keys() {
    if (this.order === undefined) {
      const added = this.added.map((ban) => ban.client);
      const gone = new Set([...added, ...this.lifted]);
      const rest = gone.size === 0 ? this.invented() : this.invented().filter((client) => !gone.has(client));
      this.order = [...added.filter((client) => !this.lifted.has(client)), ...rest];
    }
    return this.order;
  }

  invented() {
    this.names ??= Array.from({ length: this.scenario.bans + (this.scenario.imported ?? 0) }, (_, at) => clientName(at));
    return this.names;
  }

  matching(q, rule, sort) {
    if (q === "" && rule === "" && sort === "since") return this.keys();
    // A million names are not filtered again for each page of them.
    const asked = JSON.stringify([q, rule, sort]);
    if (this.last?.asked === asked && this.last.keys === this.keys()) return this.last.found;
    const found = this.keys().filter((client) => client.startsWith(q) && (rule === "" || this.ruleOf(client) === rule));
    if (sort === "client") found.sort();
    if (sort === "ends" && found.length < 1000) found.sort((a, b) => (this.ban(a).ends_ms ?? Infinity) - (this.ban(b).ends_ms ?? Infinity));
    this.last = { asked, keys: this.keys(), found };
    return found;
  }

  /** In the scenario of imported lists all but the first are imported. */
  ruleOf(client) {
    const isImported = this.scenario.imported !== undefined && STORY[client] === undefined;
    return isImported ? "imported" : RULES[ruleOf(client)];
  }

  ban(client) {
    const now = this.now();
    const added = this.added.find((ban) => ban.client === client);
    const at = number(client);
    const rule = added?.rule ?? this.ruleOf(client);
    const offence = added ? 1 : offenceOf(client);
    const term = added?.secs ?? [0, 600, 1800, 7200, null][offence];
    const since = added?.sinceMs ?? this.startOfShow() * 1000 - Math.floor((term ?? 90_000) * 1000 * (0.05 + 0.3 * hash(at)));
    const ends = term === null ? null : since + term * 1000;
    const packets = this.scenario.dry ? 0 : Math.round(((now - since) / 1000) * (3 + 400 * hash(at + 3) ** 4));
    return {
      client,
      serial: at,
      since_ms: since,
      ends_ms: ends,
      remaining_secs: ends === null ? null : Math.max(0, Math.round((ends - now) / 1000)),
      offence: rule === "operator" || rule === "imported" ? 0 : offence,
      rule,
      reason: rule === "operator" ? "scraping the shop's prices" : rule === "imported" ? "list of 2026-11" : null,
      words: WORDS[rule],
      evidence: rule === "operator" || rule === "imported" ? null : evidence(rule, since, added?.path, this.siteOf(client)),
      leaking: this.scenario.leaking && client === "203.0.113.77" ? 37 : null,
      dropped: { packets, bytes: packets * 74 },
      enforced_by: this.scenario.degraded ? ["xdp"] : ["iptables", "xdp"],
      ...(client.startsWith("198.51.100.") ? { owner: { asn: 64500, name: "Example Hosting", country: "DE" } } : {}),
    };
  }

  storyEvents() {
    const ago = (secs) => this.now() - secs * 1000;
    this.happened("started", "info", null, "Started, version 0.1.0; 4 bans restored", ago(6 * 24 * HOUR));
    if (this.scenario.attack) {
      this.happened("banned", "warning", "198.51.100.9", "Banned 198.51.100.9 for 30 min: 14 failed paths in 60 s > 10, most requested /.env", ago(1_265));
      this.happened("repaired", "warning", null, "iptables: chain SHIELD had been flushed; 4 bans restored", ago(910));
      this.happened("global_anomaly_started", "critical", null, "Global traffic anomaly: 9.87 req/s, z-score=4.71 > threshold=3.0", ago(228));
      this.happened("banned", "warning", "203.0.113.77", "Banned 203.0.113.77 for 10 min: z-score=33.1 > threshold=12.0, most requested /<script>alert(1)</script>", ago(214));
      this.happened("banned", "warning", "192.0.2.14", "Banned 192.0.2.14 for 10 min: 44 of 61 requests failed", ago(190));
      this.happened("global_anomaly_ended", "info", null, "Global traffic is back to normal: 2.61 req/s after 1 min 36 s", ago(132));
      this.happened("lifted", "info", "198.51.100.200", "Lifted the ban of 198.51.100.200: its term of 10 min was over; 1 offence remembered", ago(41));
    }
    if (this.scenario.degraded) this.happened("degraded", "warning", null, "iptables is degraded: the xtables lock is held by another program", ago(75));
  }
}

const MARKS = { banned: "bans", global_anomaly_started: "anomaly_started", global_anomaly_ended: "anomaly_ended" };

const LABELS = {
  rules: { z_score: "Z-score", rate_multiplier: "Rate multiple", error_surge: "Error surge", probing: "Probing", flood: "Flood", behaviour: "Behaviour", operator: "Operator", imported: "Imported", network: "Network" },
  baseline_sources: { rolling: "last 30 min", hour_slot: "this hour of the day", all_hours: "all hours of the day", floor: "minimum values, nothing learned yet", warm_up: "still learning" },
  enforcers: { iptables: "iptables", xdp: "XDP" },
};

function detectorState({ warming, withheld }, surging) {
  if (withheld) return { state: "degraded", text: "no automatic bans: rules fire for too many clients in good standing" };
  if (warming) return { state: "waiting", text: "21 min left; until then only floods, probing and failed logins lead to bans" };
  return { state: "active", text: surging ? "learning paused during the global anomaly" : "profile default, adaptive reference" };
}

const WORDS = {
  z_score: "3.72 req/s, 33.1 standard deviations above the usual 0.08 req/s (limit 12). In all 223 requests in 60 s, 201 failed",
  rate_multiplier: "1.90 req/s, 24 times the usual 0.08 req/s (limit 20). In all 114 requests in 60 s, none failed",
  error_surge: "44 failed requests in 60 s (limit 20). In all 61 requests in 60 s, 44 failed",
  probing: "14 different paths that do not exist in 60 s (limit 10). In all 64 requests in 60 s, all failed",
  flood: "flood of requests: 212.00 req/s (limit 100). In all 12,720 requests in 60 s, none failed",
  behaviour: "behaviour unlike this site's clients: 40 different paths in 60 s, never an image or a style sheet",
  network: "6 banned clients in one network within 10 min",
  operator: "scraping the shop's prices",
  imported: "list of 2026-11",
};

function evidence(rule, sinceMs, path, site) {
  return {
    rule,
    condition: rule === "probing" ? "failed_paths_60s=14 > threshold=10" : "z-score=33.10 > threshold=12.0",
    rate: 3.72,
    mean: 0.08,
    stddev: 0.11,
    z_score: 33.1,
    threshold: 12,
    tightened: rule === "error_surge",
    baseline: "hour_slot",
    window_secs: WINDOW_SECS,
    requests: 223,
    errors: 201,
    at_secs: Math.floor(sinceMs / 1000),
    ...(site === undefined ? {} : { sites: [site] }),
    lines: [`203.0.113.77 - - [28/Nov/2026:22:07:33 +0000] "GET ${path ?? "/.env"}?q=<script>window.hacked=1</script> HTTP/1.1" 404 153 "-" "sqlmap/1.8"`],
    measures: [
      { name: "rate", value: 3.72, threshold: 1.4 },
      { name: "failed_paths_60s", value: 14, threshold: 10 },
      { name: "errors_60s", value: 201, threshold: 20 },
    ],
    top_paths: [...(path === undefined ? [] : [{ path, count: 64 }]), ...(PATHS[rule] ?? PROBED).map((path, at) => ({ path, count: Math.max(1, 40 - 9 * at) }))],
  };
}

function meanAt(secs) {
  const hour = (secs / HOUR) % 24;
  return 2.1 + 1.5 * Math.sin(((hour - 9) / 24) * 2 * Math.PI) + 0.4 * Math.sin((hour / 12) * 2 * Math.PI);
}

function hourProfile({ quiet, warming }) {
  return Array.from({ length: 24 }, (_, hour) => {
    const known = !quiet && !warming;
    return { hour, mean: known ? meanAt(hour * HOUR + 1800) : null, stddev: known ? 0.3 + 0.25 * hash(hour) : null };
  });
}

/** The `at`-th banned client: first some of the well-known documentation addresses, then prefixes of 2001:db8::/32. */
function clientName(at) {
  const famous = ["203.0.113.77", "192.0.2.14", "2001:db8:77:1::/64", "198.51.100.9", "203.0.113.200", "192.0.2.201", "198.51.100.61"];
  return famous[at] ?? `2001:db8:${(at >>> 16).toString(16)}:${(at & 0xffff).toString(16)}::/64`;
}

function number(text) {
  let value = 2166136261;
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 16777619);
  return value >>> 0;
}

/** What the first few are banned for; the rest are dealt. */
const STORY = { "203.0.113.77": 0, "192.0.2.14": 2, "2001:db8:77:1::/64": 1, "198.51.100.9": 1, "203.0.113.200": 7, "192.0.2.201": 5, "198.51.100.61": 6 };

function ruleOf(client) {
  if (STORY[client] !== undefined) return STORY[client];
  return number(client.slice(-9)) % RULES.length;
}

function offenceOf(client) {
  return STORY[client] === undefined ? 1 + (number(`${client}!`) % 4) : 1 + (number(client) % 3);
}

/** A number of [0, 1) that is always the same for the same argument. */
function hash(at) {
  let value = Math.imul(at ^ 0x9e3779b9, 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return ((value ^ (value >>> 16)) >>> 0) / 2 ** 32;
}
