// Find the words that two texts do not share, by their longest common subsequence of words.
const MOST_PAIRS = 2e6; // of words that are compared; above this, all words count as different

// Leading white space; then a character of an unspaced script, a word or a punctuation mark, each with
// the white space that follows it.
const UNSPACED = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}]";
const WORDS = new RegExp(`^\\s+|(?:${UNSPACED}|[\\p{L}\\p{M}\\p{N}_]+|[^\\s])\\s*`, "gu");

const words = (text) => {
  const found = text.match(WORDS) ?? [];
  return found.map((whole) => ({whole, word: whole.trim()}));
};

// For each text, its runs of words in order, each as [text, whether only this text has it].
const difference = (one, two) => {
  const a = words(one), b = words(two);
  let start = 0, ends = 0;
  while (start < Math.min(a.length, b.length) && a[start].word === b[start].word) start++;
  while (ends < Math.min(a.length, b.length) - start
    && a[a.length - 1 - ends].word === b[b.length - 1 - ends].word) ends++;
  const alone = [a.map(() => false), b.map(() => false)];
  const rows = a.length - start - ends, columns = b.length - start - ends;
  const mark = (which, place) => { alone[which][start + place] = true; };
  if (rows * columns > MOST_PAIRS) {
    for (let i = 0; i < rows; i++) mark(0, i);
    for (let j = 0; j < columns; j++) mark(1, j);
  } else {
    // longest[i][j]: words in common from a's word i and b's word j on.
    const longest = Array.from({length: rows + 1}, () => new Uint16Array(columns + 1));
    for (let i = rows - 1; i >= 0; i--)
      for (let j = columns - 1; j >= 0; j--)
        longest[i][j] = a[start + i].word === b[start + j].word ? longest[i + 1][j + 1] + 1
          : Math.max(longest[i + 1][j], longest[i][j + 1]);
    let i = 0, j = 0;
    while (i < rows || j < columns) {
      if (i < rows && j < columns && a[start + i].word === b[start + j].word) { i++; j++; }
      else if (j === columns || (i < rows && longest[i + 1][j] >= longest[i][j + 1])) mark(0, i++);
      else mark(1, j++);
    }
  }
  return [parts(a, alone[0]), parts(b, alone[1])];
};

// Merge adjacent words with the same mark; white space after a marked run is not marked.
const parts = (tokens, alone) => {
  const runs = [];
  tokens.forEach(({whole}, place) => {
    if (runs.length && runs.at(-1)[1] === alone[place]) runs.at(-1)[0] += whole;
    else runs.push([whole, alone[place]]);
  });
  return runs.flatMap(([text, only]) => {
    const bare = text.trimEnd();
    return only && bare !== text ? [[bare, true], [text.slice(bare.length), false]] : [[text, only]];
  }).filter(([text]) => text);
};
