/* One game, as it was played. */

const OUTCOMES = { found: "spy found", escaped: "spy escaped", undecided: "undecided" };
const VIEWS = { blank: "a blank image", edited: "a changed image", masked: "part of the image" };
const MARKS = {
  true: ["true", "every object it names is in the civilians' image"],
  false: ["not true", "it names an object that the civilians' image does not have"],
  no_claim: ["names nothing", "it names no object that could be checked"],
  copied: ["copied", "somebody said it before"],
  unparsed: ["unparsed", "the others heard a fixed neutral text instead"],
};

/** Role of the author of a completion: spy, civilian, or voter. */
function roleOf(game, said) {
  return "vote" in said ? "voter" : said.seat === game.spy ? "spy" : "civilian";
}

function isParsed(said) {
  return "vote" in said ? said.vote !== 0 : said.parsed;
}

/** `view` has `images`, the text that is searched for and the role that is looked at. */
function gameElement(game, view) {
  const spyImage = `The spy (player ${game.spy}) sees ${VIEWS[game.view] || game.view}`;
  const roles = { clue: "clue givers", civilian: "civilians" };
  const past = game.past && `${roles[game.past.role] || game.past.role}: ${game.past.model.replace(/^start$/, "the start model")}`;
  const failed = game.failed_edit ? ` (the edit failed on purpose: ${game.failed_edit})` : "";
  return el(
    "article",
    { class: "game", "aria-label": `Game ${game.game} of iteration ${game.iteration}` },
    el(
      "header",
      {},
      el("h3", {}, `Iteration ${game.iteration}, game ${game.game}`),
      el("p", { class: "tags" }, outcomeTag(game), stageTag(game), tag(game.domain), failed ? tag("failed edit", "bad") : null, past ? tag(past) : null),
      el("p", { class: "hint pair" }, "pair ", el("code", {}, marked(game.pair, view.searched)), ` · step ${game.step}`),
    ),
    game.no_image
      ? el("p", { class: "note" }, `No images: ${game.no_image}`)
      : el(
          "div",
          { class: "pictures" },
          picture(view.images[game.image], "The civilians see", "civilian"),
          picture(view.images[game.spy_image], spyImage + failed, "spy"),
        ),
    rounds(game, view),
    votes(game, view),
    players(game),
  );
}

function tag(text, kind, title) {
  return el("span", { class: "tag " + (kind || ""), title: title || null }, text);
}

function outcomeTag(game) {
  const kind = { found: "good", escaped: "bad", undecided: "" }[game.outcome];
  return tag(OUTCOMES[game.outcome], kind);
}

function stageTag(game) {
  return tag(game.stage + " stage", game.stage);
}

function picture(source, caption, role) {
  const image = el("img", { src: source, alt: caption, decoding: "async" });
  return el("figure", { class: role }, image, el("figcaption", {}, caption));
}

function rounds(game, view) {
  const numbers = [...new Set(game.clues.map((clue) => clue.round))];
  return numbers.map((round) => [
    el("h4", {}, `Round ${round}`),
    el(
      "ol",
      { class: "said" },
      game.clues.filter((clue) => clue.round === round).map((clue) => clueElement(game, clue, view)),
    ),
  ]);
}

function clueElement(game, clue, view) {
  const role = roleOf(game, clue);
  const marks = clue.marks.map((mark) => tag(MARKS[mark][0], "mark-" + mark, MARKS[mark][1]));
  return el(
    "li",
    { class: role + (isApart(role, view) ? " apart" : "") },
    el("span", { class: "who" }, `player ${clue.seat}`, role === "spy" ? " (spy)" : ""),
    el("span", { class: "clue" + (clue.parsed ? "" : " unparsed") }, marked(clue.clue, view.searched)),
    marks.length ? el("span", { class: "marks" }, marks) : null,
    completion(clue, view, "private reasoning"),
  );
}

/** The whole completion, folded away unless what is searched for is in it and nowhere to be seen. */
function completion(said, view, name) {
  const inCompletion = view.searched && said.completion.toLowerCase().includes(view.searched);
  const seen = view.searched && said.clue !== undefined && said.clue.toLowerCase().includes(view.searched);
  return el(
    "details",
    { class: "completion", open: Boolean(inCompletion && !seen) },
    el("summary", {}, `${name}, ${said.tokens} tokens`),
    el("pre", {}, marked(said.completion, view.searched)),
  );
}

function isApart(role, view) {
  return Boolean(view.role) && view.role !== role;
}

function votes(game, view) {
  const right = game.votes.filter((vote) => vote.vote === game.spy).length;
  return [
    el("h4", {}, `Votes: ${right} of ${game.votes.length} for the spy`),
    el(
      "ol",
      { class: "said votes" },
      game.votes.map((vote) => {
        const answer = vote.vote === null ? "N/A" : vote.vote === 0 ? "unparsed" : `player ${vote.vote}`;
        const kind = vote.vote === game.spy ? "good" : vote.vote === null ? "" : "bad";
        return el(
          "li",
          { class: "voter" + (isApart("voter", view) ? " apart" : "") },
          el("span", { class: "who" }, vote.seat ? `player ${vote.seat}` : `vote ${vote.sample + 1}`),
          el("span", { class: "clue" }, tag(answer, kind), el("span", { class: "reward" }, signed(vote.reward))),
          completion(vote, view, "reasoning"),
        );
      }),
    ),
  ];
}

function players(game) {
  const rows = Array.from({ length: game.players }, (_, k) => [
    `player ${k + 1}`,
    k + 1 === game.spy ? el("strong", { class: "spy-text" }, "spy") : "civilian",
    String(game.votes.filter((vote) => vote.vote === k + 1).length),
    signed(game.rewards[k]),
    signed(game.advantages[k]),
  ]);
  return [el("h4", {}, "Rewards of clues"), tableOf("", ["player", "role", "votes", "reward", "advantage"], rows)];
}
