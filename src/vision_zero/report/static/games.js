/* The list of games: filters, search, and one or two games opened beside it. */

const CHUNK = 40;

class Games {
  constructor(page, images) {
    this.page = page;
    this.images = images;
    this.games = page.games;
    this.byPair = new Map();
    this.games.forEach((game, number) => {
      if (!this.byPair.has(game.pair)) this.byPair.set(game.pair, []);
      this.byPair.get(game.pair).push(number);
    });
    this.texts = new Map();
    this.found = [];
    this.rows = new Map();
    this.opened = [];
    this.makeFilters();
    byId("more").addEventListener("click", () => this.listMore(true));
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.listMore(), {
      root: byId("list"),
      rootMargin: "200px",
    }).observe(byId("more"));
    byId("list").addEventListener("scroll", () => {
      const list = byId("list");
      if (list.scrollTop + list.clientHeight > list.scrollHeight - 300) this.listMore();
    });
    byId("list").addEventListener("keydown", (event) => this.listKey(event));
    document.addEventListener("keydown", (event) => this.key(event));
    this.filter();
    addEventListener("hashchange", () => this.followAddress());
    this.followAddress();
  }

  // ---------------------------------------------------------------------------------------------------- addresses

  /** Open what the address names: a game, the games of an iteration, or a part of the page, which is complete now. */
  followAddress() {
    const named = /^#iteration-(\d+)(?:-game-(\d+))?$/.exec(location.hash);
    if (!named) {
      const place = location.hash.length > 1 && byId(location.hash.slice(1));
      if (place) place.scrollIntoView({ block: "start" });
      return;
    }
    const [iteration, game] = [Number(named[1]), named[2] === undefined ? undefined : Number(named[2])];
    const fields = byId("filters").elements;
    byId("filters").reset();
    if (game === undefined) fields.from.value = fields.to.value = this.nearest(iteration);
    this.filter();
    const at = this.games.findIndex((one) => one.iteration === iteration && one.game === game);
    byId("notice").textContent = this.notice(iteration, game, at);
    if (at >= 0) {
      while (!this.rows.has(at)) this.listMore();
      this.rows.get(at).scrollIntoView({ block: "nearest" });
      this.open([at], true);
      byId("open").scrollIntoView({ block: "start" });
    } else {
      this.openFirst();
      byId("games").scrollIntoView({ block: "start" });
    }
  }

  /** The iteration with games on this page that is nearest to another; nothing if there are no games. */
  nearest(iteration) {
    const apart = (one) => Math.abs(one - iteration);
    const numbers = this.games.map((game) => game.iteration);
    return numbers.length ? numbers.reduce((best, one) => (apart(one) < apart(best) ? one : best)) : "";
  }

  notice(iteration, game, at) {
    if (game !== undefined) return at < 0 ? `Iteration ${iteration}, game ${game} is not on this page.` : "";
    const nearest = this.nearest(iteration);
    if (nearest === iteration || nearest === "") return "";
    return `No game of iteration ${iteration} is on this page (recorded every few iterations, or left out by --games); nearest: iteration ${nearest}.`;
  }

  // ---------------------------------------------------------------------------------------------------- filters

  makeFilters() {
    const form = byId("filters");
    const domains = [...new Set(this.games.map((game) => game.domain))].sort();
    const choice = (name, label, options, title) =>
      el(
        "label",
        { title: title || null },
        label,
        el("select", { name }, options.map(([value, text]) => el("option", { value }, text))),
      );
    const numbers = this.games.map((game) => game.iteration);
    const [least, most] = numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [1, 1];
    const iteration = (name, label) =>
      el("label", {}, label, el("input", { name, type: "number", min: least, max: most, placeholder: name === "from" ? least : most }));
    form.append(
      el("label", { class: "wide" }, "search", el("input", { name: "text", type: "search", placeholder: "press /", autocomplete: "off" })),
      choice("role", "of", [["", "everybody"], ["spy", "the spy"], ["civilian", "civilians"], ["voter", "voters"]], "Whose completions are searched, counted as unparsed, and shown strongly"),
      choice("stage", "stage", [["", "both"], ["decision", "decision"], ["clue", "clue"]]),
      choice("outcome", "outcome", [["", "any"], ...Object.entries(OUTCOMES)]),
      choice("domain", "domain", [["", "all"], ...domains.map((one) => [one, one])]),
      iteration("from", "from iteration"),
      iteration("to", "to"),
      el("label", { class: "check" }, el("input", { name: "unparsed", type: "checkbox" }), "unparsed"),
      el("label", { class: "check" }, el("input", { name: "again", type: "checkbox" }), "repeated pairs"),
      choice("order", "order", [["early", "early first"], ["late", "late first"]]),
      el("button", { type: "reset", class: "plain", onclick: (event) => this.reset(event) }, "Reset"),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.filter());
  }

  reset(event) {
    event.preventDefault();
    byId("filters").reset();
    this.filter();
  }

  wanted() {
    const fields = byId("filters").elements;
    return {
      searched: fields.text.value.trim().toLowerCase(),
      role: fields.role.value,
      stage: fields.stage.value,
      outcome: fields.outcome.value,
      domain: fields.domain.value,
      from: fields.from.value === "" ? -Infinity : Number(fields.from.value),
      to: fields.to.value === "" ? Infinity : Number(fields.to.value),
      unparsed: fields.unparsed.checked,
      again: fields.again.checked,
      late: fields.order.value === "late",
    };
  }

  /** What a role said in a game, in lower case, for the search; the pair's name is everybody's. */
  textOf(number, role) {
    const key = number + role;
    if (!this.texts.has(key)) {
      const game = this.games[number];
      const said = [...game.clues, ...game.votes].filter((one) => !role || roleOf(game, one) === role);
      const texts = said.flatMap((one) => (one.clue === undefined ? [one.completion] : [one.clue, one.completion]));
      this.texts.set(key, [...texts, role ? "" : game.pair].join("\n").toLowerCase());
    }
    return this.texts.get(key);
  }

  fits(number, wanted) {
    const game = this.games[number];
    if (wanted.stage && game.stage !== wanted.stage) return false;
    if (wanted.outcome && game.outcome !== wanted.outcome) return false;
    if (wanted.domain && game.domain !== wanted.domain) return false;
    if (game.iteration < wanted.from || game.iteration > wanted.to) return false;
    if (wanted.again && this.byPair.get(game.pair).length < 2) return false;
    if (wanted.unparsed && !this.unparsed(game, wanted.role)) return false;
    return !wanted.searched || this.textOf(number, wanted.role).includes(wanted.searched);
  }

  unparsed(game, role) {
    return [...game.clues, ...game.votes].filter((one) => !isParsed(one) && (!role || roleOf(game, one) === role)).length;
  }

  filter() {
    this.now = this.wanted();
    this.found = this.games.map((_, number) => number).filter((number) => this.fits(number, this.now));
    if (this.now.late) this.found.reverse();
    byId("list").replaceChildren();
    this.rows.clear();
    byId("list").scrollTop = 0;
    const hidden = this.page.recorded - this.games.length;
    const rest = hidden > 0 ? `; ${hidden} more were recorded and are not on this page (--games)` : "";
    byId("count").textContent = `${this.found.length} of ${this.games.length} games${rest}`;
    this.listMore();
    byId("notice").textContent = "";
    // A game that does not fit any more is closed.
    if (this.opened.length && this.opened.every((number) => this.found.includes(number))) this.show();
    else this.openFirst();
  }

  // ------------------------------------------------------------------------------------------------------- list

  listMore(focus) {
    const from = this.rows.size;
    const list = byId("list");
    for (const number of this.found.slice(from, from + CHUNK)) {
      const row = this.row(number);
      this.rows.set(number, row);
      list.append(el("li", {}, row));
    }
    byId("more").hidden = this.rows.size >= this.found.length;
    this.markOpened();
    if (focus && this.found.length > from) this.rows.get(this.found[from]).focus();
  }

  row(number) {
    const game = this.games[number];
    const right = game.votes.filter((vote) => vote.vote === game.spy).length;
    const unparsed = this.unparsed(game, "");
    const thumb = game.image === null ? el("span", { class: "thumb" }) : el("img", { class: "thumb", src: this.images[game.image], alt: "", decoding: "async", loading: "lazy" });
    return el(
      "button",
      { type: "button", class: "row", "data-number": number, onclick: () => this.open([number]) },
      thumb,
      el(
        "span",
        { class: "lines" },
        el("span", { class: "first" }, `Iteration ${game.iteration}`, el("span", { class: "dot " + game.stage, title: game.stage + " stage" }), game.stage),
        el("span", { class: "second" }, game.pair),
        el(
          "span",
          { class: "tags" },
          outcomeTag(game),
          tag(`${right}/${game.votes.length} votes`),
          unparsed ? tag(`${unparsed} unparsed`, "bad") : null,
        ),
      ),
    );
  }

  markOpened() {
    for (const [number, row] of this.rows) {
      if (this.opened.includes(number)) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  listKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest(".row");
    if (!step || !row) return;
    event.preventDefault();
    const at = this.found.indexOf(Number(row.dataset.number)) + step;
    if (at >= this.rows.size) this.listMore();
    const next = this.rows.get(this.found[at]);
    if (!next) return;
    next.focus();
    this.open([this.found[at]], true);
  }

  /** Of the whole page: / to the search, j and k to the next and the previous game of the list. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      byId("filters").elements.text.focus();
    } else if (event.key === "j" || event.key === "k") this.move(event.key === "j" ? 1 : -1);
  }

  move(step) {
    const at = this.found.indexOf(this.opened[0]);
    const number = this.found[at < 0 ? 0 : at + step];
    if (number === undefined) return;
    while (!this.rows.has(number)) this.listMore();
    this.rows.get(number).scrollIntoView({ block: "nearest" });
    this.open([number]);
  }

  // ----------------------------------------------------------------------------------------------- opened games

  openFirst() {
    this.opened = this.found.slice(0, 1);
    this.markOpened();
    this.show();
  }

  /**
   * Open one game, or two beside each other; the address names the first. The page scrolls to it, unless `still`, where
   * it stands below the list.
   */
  open(numbers, still) {
    this.opened = numbers;
    this.markOpened();
    this.show();
    const { iteration, game } = this.games[numbers[0]];
    history.replaceState(null, "", "#" + gameAddress(iteration, game));
    const place = byId("open");
    if (!still && place.getBoundingClientRect().top > innerHeight * 0.7) place.scrollIntoView({ block: "start" });
  }

  show() {
    if (!this.opened.length) {
      const why = this.games.length ? "No game fits these filters." : "There is no game to show.";
      return byId("open").replaceChildren(el("p", { class: "hint" }, why));
    }
    const view = { page: this.page, images: this.images, searched: this.now.searched, role: this.now.role };
    const articles = this.opened.map((number) => gameElement(this.games[number], view));
    byId("open").replaceChildren(
      this.bar(),
      el("div", { class: this.opened.length > 1 ? "compared" : "" }, articles),
    );
  }

  /** Above the opened game: previous and next, and the other games of the same pair. */
  bar() {
    const [first] = this.opened;
    const same = this.byPair.get(this.games[first].pair);
    const comparing = this.opened.length > 1;
    const chooser = (slot) =>
      el(
        "select",
        {
          "aria-label": slot ? "game on the right" : "game on the left",
          onchange: (event) => {
            const numbers = [...this.opened];
            numbers[slot] = Number(event.target.value);
            this.open(numbers, true);
          },
        },
        same.map((number) => {
          const { iteration, game } = this.games[number];
          return el("option", { value: number, selected: number === this.opened[slot] }, `iteration ${iteration}, game ${game}`);
        }),
      );
    const others = same.length - 1;
    const compare = el(
      "button",
      {
        type: "button",
        id: "compare",
        class: "plain",
        "aria-pressed": String(comparing),
        onclick: () => {
          this.open(comparing ? [first] : [same[0], same[same.length - 1]], true);
          byId("compare").focus();
        },
      },
      comparing ? "Close comparison" : "Compare early and late",
    );
    return el(
      "div",
      { class: "bar" },
      el("button", { type: "button", class: "plain", onclick: () => this.move(-1), title: "previous game (k)" }, "‹ Previous"),
      el("button", { type: "button", class: "plain", onclick: () => this.move(1), title: "next game (j)" }, "Next ›"),
      el("span", { class: "hint" }, others ? `This pair was played ${same.length} times` : "This pair was played once"),
      others ? compare : null,
      others ? chooser(0) : null,
      comparing ? chooser(1) : null,
    );
  }
}
