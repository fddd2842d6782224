// Mathematics in pieces, from what is on the screen outwards: a chapter at once would block a phone.
if (window.MathJax) {
  const PIECE = 15;
  const away = (element) => Math.abs(element.getBoundingClientRect().top - innerHeight / 2);

  async function typeset() {
    const formulas = [...document.querySelectorAll(".math")]
      .map((element) => [away(element), element])
      .sort(([a], [b]) => a - b)
      .map(([, element]) => element);
    while (formulas.length) {
      await MathJax.typesetPromise(formulas.splice(0, PIECE));
      await new Promise((resume) => setTimeout(resume));
    }
    document.documentElement.dataset.typeset = "";
  }

  MathJax.startup = {
    typeset: false,
    ready() {
      MathJax.startup.defaultReady();
      MathJax.startup.promise.then(typeset);
    },
  };
}
