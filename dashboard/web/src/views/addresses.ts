// Addresses: the network around one, and copying one.

import { toast } from "./toast";

const GROUPS = 8;

/** The /24 or /48 around a client; the client itself if it is a network as large as that. Null for what is no address. */
export function networkOf(client: string): string | null {
  const [address = "", length] = client.split("/");
  if (address.includes(":")) {
    const groups = expand(address);
    if (groups === null) return null;
    if (length !== undefined && Number(length) <= 48) return client;
    const first = groups.slice(0, 3);
    while (first.at(-1) === "0") first.pop();
    return `${first.join(":")}::/48`;
  }
  const bytes = address.split(".");
  if (bytes.length !== 4 || !bytes.every((byte) => /^\d{1,3}$/.test(byte))) return null;
  if (length !== undefined && Number(length) <= 24) return client;
  return `${bytes.slice(0, 3).join(".")}.0/24`;
}

/** The eight groups of an IPv6 address. */
function expand(address: string): string[] | null {
  const halves = address.split("::");
  if (halves.length > 2) return null;
  const [head, tail] = halves.map((half) => half.split(":").filter((group) => group !== ""));
  if (head === undefined) return null;
  const zeros = GROUPS - head.length - (tail?.length ?? 0);
  if (tail === undefined ? zeros !== 0 : zeros < 0) return null;
  const groups = [...head, ...Array<string>(zeros).fill("0"), ...(tail ?? [])];
  return groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group)) ? groups : null;
}

/** Whether the text is a whole address or network. */
export function isAddress(text: string): boolean {
  return /^[0-9a-f.:]+(\/\d{1,3})?$/i.test(text) && networkOf(text) !== null;
}

/** Puts the text into the clipboard and says so. */
export async function copy(text: string): Promise<void> {
  const done = await navigator.clipboard?.writeText(text).then(
    () => true,
    () => false,
  );
  toast(done || copyOld(text) ? `Copied: ${text}` : `Could not copy. Select it by hand: ${text}`);
}

/** Over plain HTTP from another machine a browser has no `navigator.clipboard`. */
function copyOld(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  // In a dialog only what is inside of it can be focused.
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
