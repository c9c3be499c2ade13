// The operator's actions: ban a client or a network, lift a ban, put a client on the allowlist or take it off, pause automatic
// bans and resume them, enter or forget the token.

import { api } from "../api/client";
import { forgetToken, readToken } from "../api/token";
import type { Ban, Reply, Term } from "../api/types";
import { byId, h, setText } from "../dom";
import { plural, span, time } from "../format";
import { ask, field } from "./dialog";
import { toast } from "./toast";

const REASON = { type: "text", maxlength: 200, autocomplete: "off" };

const TERMS: [label: string, secs: number | null][] = [
  ["1 h", 3_600],
  ["10 min", 600],
  ["1 d", 86_400],
  ["7 d", 604_800],
  ["permanent, until it is lifted", null],
];

const ALLOWED_FOR: [label: string, secs: number | null][] = [
  ["good, until it is removed", null],
  ["1 h", 3_600],
  ["1 d", 86_400],
  ["7 d", 604_800],
  ["30 d", 2_592_000],
];

const PAUSE_SECS = 1_800;
const PAUSES: [label: string, secs: number][] = [
  ["30 min", PAUSE_SECS],
  ["10 min", 600],
  ["2 h", 7_200],
  ["1 d", 86_400],
];

/** Set by the page: what shows bans is fetched again. */
let changed: () => void = () => undefined;

export function onChange(run: () => void): void {
  changed = run;
}

/** Lifts a ban: at once if this tab has the token, because it can be undone. */
export function lift(ban: Pick<Ban, "client" | "remaining_secs">): void {
  const run = async (): Promise<void> => {
    check(await api.unban(ban.client, true, null));
    const term: Term = ban.remaining_secs === null ? "permanent" : { secs: Math.max(1, ban.remaining_secs) };
    const left = ban.remaining_secs === null ? "for good" : `for the ${span(ban.remaining_secs)} that were left`;
    const undo = (): void => {
      void attempt(async () => {
        check(await api.ban(ban.client, term, "the lift was undone"));
        toast(`${ban.client} is banned again ${left}.`);
      });
    };
    toast(`The ban of ${ban.client} is lifted; it begins afresh.`, { label: "Undo", run: undo });
    changed();
  };
  if (readToken() !== null) return void attempt(run);
  ask({
    title: `Lift the ban of ${ban.client}`,
    text: "Its packets get through again at once, its recent requests and its offences are forgotten: it begins afresh.",
    fields: [],
    confirm: "Lift the ban",
    run,
  });
}

/** Bans a client or a network after confirmation; asks for whom, where it is not given. */
export function ban(client: string | null): void {
  const who = field("Address or network", { type: "text", required: true, maxlength: 60, autocomplete: "off", spellcheck: false });
  const terms = choice(TERMS);
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: client === null ? "Ban a client or a network" : `Ban ${client}`,
    text: "All packets from it are dropped until then, those of visitors in it as well. Who is on the allowlist gets through.",
    fields: [...(client === null ? [who.element] : []), terms.element, reason.element],
    confirm: "Ban",
    run: async () => {
      const secs = terms.chosen();
      const target = client ?? who.input.value.trim();
      report(await api.ban(target, secs === null ? "permanent" : { secs }, textOrNull(reason.input)));
      changed();
    },
  });
}

/** Puts a client or a network on the allowlist after confirmation, for good or for a while; asks for whom, where it is not given. */
export function allow(client: string | null): void {
  const who = field("Address or network", { type: "text", required: true, maxlength: 60, autocomplete: "off", spellcheck: false });
  const terms = choice(ALLOWED_FOR);
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: client === null ? "Never ban a client or a network" : `Never ban ${client}`,
    text: "Its ban is lifted, and whatever it does, it is not banned again while it is on the allowlist.",
    fields: [...(client === null ? [who.element] : []), terms.element, reason.element],
    confirm: "Never ban it",
    run: async () => {
      report(await api.allow(client ?? who.input.value.trim(), terms.chosen(), textOrNull(reason.input)));
      changed();
    },
  });
}

/** Takes a network off the allowlist after confirmation. */
export function disallow(network: string): void {
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: `Judge ${network} again`,
    text: "It is taken off the allowlist: rules may ban it from now on.",
    fields: [reason.element],
    confirm: "Take it off the allowlist",
    run: async () => {
      report(await api.disallow(network, textOrNull(reason.input)));
      changed();
    },
  });
}

/** Pauses automatic bans after confirmation. */
export function pause(): void {
  const terms = choice(PAUSES);
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: "Pause automatic bans",
    text: "Until then rules ban and slow nobody; who would be banned is listed here. Bans in force stay, and you can ban and lift by hand.",
    fields: [terms.element, reason.element],
    confirm: "Pause",
    run: async () => {
      const { until_ms: until } = await api.pause(terms.chosen() ?? PAUSE_SECS, textOrNull(reason.input));
      toast(`Automatic bans are paused until ${time(until)}.`);
      changed();
    },
  });
}

/** Ends a pause, and a stop by the limits, after confirmation: it bans those who were let through meanwhile. */
export function resume(waiting: number): void {
  const reason = field("Reason, for the record (optional)", REASON);
  const whom = waiting === 0 ? "Nobody waits to be banned." : `${plural(waiting, "client", "clients")} that get through now are banned at once, if they still attack.`;
  ask({
    title: "Resume automatic bans",
    text: `Rules ban again. ${whom}`,
    fields: [reason.element],
    confirm: "Resume",
    run: async () => {
      const { results } = await api.resume(textOrNull(reason.input));
      toast(results.length === 0 ? "Rules ban again." : `Rules ban again; ${plural(results.length, "client", "clients")} dealt with.`);
      changed();
    },
  });
}

/** A field with the lengths of time to choose from. */
function choice<T extends number | null>(terms: [label: string, secs: T][]): { element: HTMLElement; chosen(): T | null } {
  const select = h("select", {}, ...terms.map(([label], at) => h("option", { value: at }, label)));
  return {
    element: h("label", { class: "field" }, h("span", {}, "For"), select),
    chosen: () => terms[Number(select.value)]?.[1] ?? null,
  };
}

/** Wires the button that enters or forgets the token; calls `given` once the token is accepted. */
export function startTokenButton(given: () => void): () => void {
  const button = byId("token-button");
  const show = (): void => {
    const has = readToken() !== null;
    setText(button, has ? "Lock" : "Unlock");
    button.setAttribute("title", has ? "Forget the token in this tab" : "Enter the operator's token, to ban, lift and allow");
  };
  const unlock = (): void => {
    const text = "With the operator's token this page can ban clients, lift bans and allow clients.";
    ask({ title: "Enter the token", text, fields: [], confirm: "Unlock", run: async () => given() });
  };
  button.addEventListener("click", () => {
    if (readToken() === null) return unlock();
    forgetToken();
    show();
    toast("Locked: the token is forgotten.");
  });
  document.addEventListener("token-changed", show);
  show();
  return unlock;
}

/** Runs a change without a dialog: a failure is told where the success would be. */
async function attempt(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    toast(error instanceof Error ? error.message : String(error));
    changed();
  }
}

function check(reply: Reply): void {
  const refused = reply.results.filter((result) => !result.ok);
  if (refused.length > 0) throw new Error(refused.map((result) => `${result.client}: ${result.message}`).join("; "));
}

function report(reply: Reply): void {
  check(reply);
  toast(reply.results.map((result) => `${result.client}: ${result.message}`).join("; "));
}

function textOrNull(input: HTMLInputElement): string | null {
  const text = input.value.trim();
  return text === "" ? null : text;
}
