// Looks inside a network, live. Runs once, when the component appears; `element`, `props` and `watch` come from gr.HTML.
// While the panel is open, it asks for a new one after each answer of a tab, each move of the image and each choice of a
// map: at most one every EVERY ms. Gradio has one call under way and drops all that wait but the last.

const EVERY = 120;
const PLACES = "#digit-answer, #picture-answer, #image-answer";
const panel = element.querySelector("details");
const place = element.querySelector(".place");
const wish = { x: 0, y: 0, stage: 0, map: null };
let count = 0;
let sent = 0;
let timer = null;

const kind = () => document.querySelector('[role=tab][aria-selected="true"]')?.textContent.trim().toLowerCase();

function ask() {
	if (!panel.open || panel.hidden || timer !== null) return;
	timer = setTimeout(
		() => {
			timer = null;
			sent = performance.now();
			const detail = JSON.stringify({ ...wish, kind: kind(), count: ++count });
			document.dispatchEvent(new CustomEvent("zoo-look", { detail }));
		},
		Math.max(0, sent + EVERY - performance.now()),
	);
}

// Only what has changed is exchanged: the focus stays where it is, and screen readers hear of a map that is chosen.
function show(html) {
	const fresh = document.createElement("template");
	fresh.innerHTML = html;
	const [next, now] = [fresh.content.firstElementChild, place.firstElementChild];
	if (!next?.dataset.key || next.dataset.key !== now?.dataset.key) place.replaceChildren(...fresh.content.childNodes);
	else {
		for (const one of [next, ...next.querySelectorAll("[data-part]")]) {
			const old = one === next ? now : now.querySelector(`[data-part="${one.dataset.part}"]`);
			for (const name of ["hidden", "style", "src", "alt", "data-stage", "data-map"]) {
				if (!one.hasAttribute(name)) old.removeAttribute(name);
				else if (one.getAttribute(name) !== old.getAttribute(name)) old.setAttribute(name, one.getAttribute(name));
			}
			if (one !== next && one.innerHTML !== old.innerHTML) old.innerHTML = one.innerHTML;
		}
	}
	const { stage, map } = next?.dataset ?? {};
	if (map !== undefined && wish.map === null) Object.assign(wish, { stage: Number(stage), map: Number(map) });
}
watch("value", () => show(props.value));

function move(x, y) {
	Object.assign(wish, { x: Math.max(-16, Math.min(16, x)), y: Math.max(-16, Math.min(16, y)) });
	ask();
}

function choose(stage, map) {
	const count = Number(place.querySelector(`figure[data-stage="${stage}"]`).dataset.count);
	Object.assign(wish, { stage, map: Math.max(0, Math.min(count - 1, map)) });
	ask();
}

const box = (figure) => figure.querySelector("div").getBoundingClientRect();
let held = null; // where the image was taken, and how far it was moved then
element.addEventListener("pointerdown", (event) => {
	const figure = event.target.closest(".move");
	if (!figure) return;
	event.preventDefault();
	figure.focus({ preventScroll: true, focusVisible: false });
	figure.setPointerCapture(event.pointerId);
	held = { x: event.clientX, y: event.clientY, from: { ...wish }, pixel: box(figure).width / figure.querySelector("img").naturalWidth };
});
element.addEventListener("pointermove", (event) => {
	if (!held || !event.target.closest(".move")) return;
	const { x, y, from, pixel } = held;
	move(from.x + Math.round((event.clientX - x) / pixel), from.y + Math.round((event.clientY - y) / pixel));
});
for (const kind of ["pointerup", "pointercancel"]) element.addEventListener(kind, () => (held = null));

element.addEventListener("click", (event) => {
	const figure = event.target.closest("figure[data-stage]");
	const step = event.target.dataset.step;
	if (step) choose(wish.stage, wish.map + Number(step));
	else if (event.target.matches(".back")) move(0, 0);
	else if (figure && event.target.closest("div").parentElement === figure) {
		const { left, top, width, height } = box(figure);
		const { stage, columns, rows } = figure.dataset;
		const column = Math.floor(((event.clientX - left) / width) * columns);
		choose(Number(stage), Math.floor(((event.clientY - top) / height) * rows) * columns + column);
	}
});

const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
element.addEventListener("keydown", (event) => {
	const [x, y] = steps[event.key] ?? [0, 0];
	const { stage, columns } = event.target.dataset;
	const moves = event.target.matches(".move");
	if (moves && event.key === "Escape") move(0, 0);
	else if (moves && steps[event.key]) move(wish.x + x, wish.y + y);
	else if (stage && steps[event.key]) {
		const here = Number(stage) === wish.stage ? wish.map : -x - y * columns; // a sheet's first map is chosen first
		choose(Number(stage), here + x + y * columns);
	} else return;
	event.preventDefault();
});

// The panel belongs to the tabs that classify; another tab has another image.
let tab = null;
function follow() {
	if (kind() === tab) return;
	tab = kind();
	panel.hidden = !["digit", "picture", "image"].includes(tab);
	move(0, 0);
}
panel.addEventListener("toggle", ask);
// Of what changes in the place of an answer, the answer itself: Gradio counts the seconds beside it.
const answers = ({ target, addedNodes }) => {
	const at = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
	return at?.closest(PLACES) && (at.closest(".answer") || [...addedNodes].some((one) => one.matches?.(".answer")));
};
new MutationObserver((records) => {
	follow();
	if (records.some(answers)) ask();
}).observe(document.body, { childList: true, characterData: true, subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
follow();
