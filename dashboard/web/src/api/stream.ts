// Server-sent events over `fetch`: `EventSource` can neither send a token nor be given a time limit.

export interface Message {
  event: string;
  data: string;
  id: string | null;
}

/**
 * Parses a stream of bytes as the HTML standard's "event stream interpretation" says. Ends with the stream; a comment
 * becomes a message of the event `comment`, because it shows that the stream is alive.
 */
export async function* messages(body: ReadableStream<Uint8Array>): AsyncGenerator<Message> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  let block: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const text = pending + decoder.decode(value, { stream: true });
      // A CR at the end may be the first half of a CR LF: kept until the next bytes are here.
      const end = text.endsWith("\r") ? text.length - 1 : text.length;
      const lines = text.slice(0, end).split(/\r\n|\n|\r/);
      pending = (lines.pop() ?? "") + text.slice(end);
      for (const line of lines) {
        if (line === "") {
          const message = interpret(block);
          block = [];
          if (message !== null) yield message;
        } else {
          block.push(line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function interpret(block: string[]): Message | null {
  let event = "message";
  let id: string | null = null;
  const data: string[] = [];
  for (const line of block) {
    const [, field = "", value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (field === "event") event = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  }
  if (data.length > 0) return { event, data: data.join("\n"), id };
  return block.length > 0 ? { event: "comment", data: "", id: null } : null;
}
