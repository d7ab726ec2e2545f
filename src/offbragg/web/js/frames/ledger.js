// What became of every expected frame, from the run-length form of `/runs/UID/ledger`.

const FAULTS = new Set(["missing", "rejected"]);

export class Ledger {
  /** @param {any} answer of the route */
  constructor(answer) {
    this.answer = answer;
    this.n = answer.n;
    /** @type {{status: string, from: number, to: number}[]} from … below to */
    this.spans = [];
    let at = 0;
    for (const [status, length] of answer.status) {
      const last = this.spans[this.spans.length - 1];
      if (last?.status === status) last.to += length;
      else this.spans.push({status, from: at, to: at + length});
      at += length;
    }
    /** Indices that are missing or rejected, in order. @type {number[]} */
    this.faults = this.spans
      .filter(({status}) => FAULTS.has(status))
      .flatMap(({from, to}) => Array.from({length: to - from}, (_, i) => from + i));
  }

  /** @param {number} index @returns {string} */
  status(index) {
    let [low, high] = [0, this.spans.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (index < this.spans[middle].to) high = middle;
      else low = middle + 1;
    }
    return this.spans[low]?.status ?? "pending";
  }

  /** Midpoint of a frame on the scan axis, degree; null if not known. */
  angle(index) {
    const {angles} = this.answer;
    return angles ? angles[0] + angles[1] * index : null;
  }

  /** Why a frame is not stored; "" if it is. A reason may be that of the first of several. */
  reason(index) {
    return this.answer.reasons?.[index] ?? "";
  }

  /** The frame file, where the ledger has it. */
  file(index) {
    return this.answer.files?.[index] ?? "";
  }

  /** The next fault after (or before) an index; null if there is none. */
  fault(index, direction) {
    return (
      (direction > 0
        ? this.faults.find((each) => each > index)
        : this.faults.findLast((each) => each < index)) ?? null
    );
  }

  /** Counts in words: "2140 stored, 4 missing, 6 rejected, 1500 pending". */
  get words() {
    const {counts} = this.answer;
    return ["stored", "missing", "rejected", "pending"]
      .filter((status, at) => at === 0 || counts[status])
      .map((status) => `${counts[status] ?? 0} ${status}`)
      .join(", ");
  }
}
