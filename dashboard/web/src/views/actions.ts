// The operator's actions: ban a client or a network, lift a ban, put a client on the allowlist, enter or forget the token.

import { api } from "../api/client";
import { forgetToken, readToken } from "../api/token";
import type { Reply } from "../api/types";
import { byId, h, setText } from "../dom";
import { ask, field } from "./dialog";

const REASON = { type: "text", maxlength: 200, autocomplete: "off" };

/** Lifts the client's ban after confirmation, then calls `done`. */
export function lift(client: string, done: () => void): void {
  const reason = field("Reason, for the record (optional)", REASON);
  const keep = field("Keep its offences: its next ban is longer", { type: "checkbox" });
  ask({
    title: `Lift the ban of ${client}`,
    text: "Its packets get through again at once, its recent requests and its offences are forgotten: it begins afresh.",
    fields: [reason.element, keep.element],
    confirm: "Lift the ban",
    run: async () => {
      report(await api.unban(client, !keep.input.checked, textOrNull(reason.input)));
      done();
    },
  });
}

/** Bans a client or a network for an hour after confirmation. */
export function banForAnHour(client: string): void {
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: `Ban ${client} for 1 h`,
    text: "All packets from it are dropped until then, those of visitors in it as well. Who is on the allowlist gets through.",
    fields: [reason.element],
    confirm: "Ban",
    run: async () => report(await api.ban(client, 3600, textOrNull(reason.input))),
  });
}

/** Puts the client on the allowlist after confirmation, then calls `done`. */
export function allow(client: string, done: () => void): void {
  const reason = field("Reason, for the record (optional)", REASON);
  ask({
    title: `Always allow ${client}`,
    text: "Its ban is lifted, and whatever it does it is not banned again until it is taken off the allowlist.",
    fields: [reason.element],
    confirm: "Allow always",
    run: async () => {
      report(await api.allow(client, textOrNull(reason.input)));
      done();
    },
  });
}

/** Wires the button that enters or forgets the token; calls `given` once the token is accepted. */
export function startTokenButton(given: () => void): () => void {
  const button = byId("token-button");
  const show = (): void => {
    const has = readToken() !== null;
    setText(button, has ? "Lock" : "Unlock");
    button.setAttribute("title", has ? "Forget the token in this tab" : "Enter the operator's token, to lift bans and allow clients");
  };
  const unlock = (): void => {
    const text = "With the operator's token this page can lift bans and allow clients.";
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

/** Shows the outcome of an action; screen readers announce it. */
export function toast(text: string): void {
  // A new element each time: it fades out again, and is announced even if the text is the same as before.
  byId("toast").replaceChildren(h("p", { class: "toast" }, text));
}

function report(reply: Reply): void {
  const refused = reply.results.filter((result) => !result.ok);
  if (refused.length > 0) throw new Error(refused.map((result) => `${result.client}: ${result.message}`).join("; "));
  toast(reply.results.map((result) => `${result.client}: ${result.message}`).join("; "));
}

function textOrNull(input: HTMLInputElement): string | null {
  const text = input.value.trim();
  return text === "" ? null : text;
}
