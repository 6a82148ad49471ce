// The drawing pad. Runs once, when the component appears; `element`, `props` and `trigger` come from gr.HTML.
// Strokes are kept as points. `props.value` is what serve/images/strokes.py reads, as JSON: widths and coordinates as
// shares of the pad's side; or "" while the pad is blank.

const SIDE = 280; // units of the pad's side, whatever its size on the screen
const EVERY = 120; // ms between two drawings sent while a stroke goes on
const STEP = 8; // units that an arrow key moves the pen
const CORNER = Math.PI / 3; // a turn by more than this is a corner; smaller ones are rounded, as in strokes.py
const MOST = 10000; // points, as in strokes.py
const STEPS = 100; // that can be undone: a page that stays open for a day holds no more

const canvas = element.querySelector("canvas");
const cursor = element.querySelector(".pad-cursor");
const hint = element.querySelector(".pad-hint");
const brush = element.querySelector("input[type=range]");
const margin = element.querySelector(".pad-margin");
const undo = element.querySelector("[data-do=undo]");
const redo = element.querySelector("[data-do=redo]");
const clear = element.querySelector("[data-do=clear]");
const KEPT = "drawing"; // the key in this tab's storage, so that a reload keeps what was drawn
let strokes = [];
const past = []; // the drawings before each stroke and each Clear
const future = []; // the drawings that were taken back
let current = null;
let pointer = null;
const pen = { x: SIDE / 2, y: SIDE / 2, down: false };
let sent = 0;
let timer = null;

const scale = Math.max(1, Math.min(3, window.devicePixelRatio || 1));
canvas.width = canvas.height = Math.round(SIDE * scale);

function turns(a, b, c) {
	const angle = Math.atan2(c[1] - b[1], c[0] - b[0]) - Math.atan2(b[1] - a[1], b[0] - a[0]);
	return Math.abs(Math.atan2(Math.sin(angle), Math.cos(angle)));
}

function paint() {
	const context = canvas.getContext("2d");
	const style = getComputedStyle(canvas);
	const factor = canvas.width / SIDE;
	context.setTransform(factor, 0, 0, factor, 0, 0);
	context.fillStyle = style.backgroundColor;
	context.fillRect(0, 0, SIDE, SIDE);
	context.strokeStyle = style.color;
	context.lineCap = context.lineJoin = "round";
	for (const { width, points } of strokes) {
		context.lineWidth = width;
		context.beginPath();
		context.moveTo(...points[0]);
		// Curves through the midpoints: a quick stroke has few points, and straight lines would show corners.
		for (let i = 1; i < points.length - 1; i++) {
			const [x, y] = points[i];
			const [u, v] = points[i + 1];
			if (turns(points[i - 1], points[i], points[i + 1]) > CORNER) context.lineTo(x, y);
			context.quadraticCurveTo(x, y, (x + u) / 2, (y + v) / 2);
		}
		context.lineTo(...points[points.length - 1]);
		context.stroke();
	}
}

function show() {
	paint();
	hint.hidden = strokes.length > 0;
	undo.disabled = past.length === 0;
	redo.disabled = future.length === 0;
	clear.disabled = strokes.length === 0;
}

function share(units) {
	return Math.round((units / SIDE) * 1e4) / 1e4;
}

function send() {
	clearTimeout(timer);
	timer = null;
	sent = performance.now();
	keep();
	const lines = strokes.map(({ width, points }) => ({ width: share(width), points: points.flat().map(share) }));
	props.value = lines.length ? JSON.stringify({ strokes: lines }) : "";
}

function keep() {
	try {
		sessionStorage.setItem(KEPT, JSON.stringify(strokes));
	} catch {
		// The browser keeps nothing, or the drawing is too large.
	}
}

function restore() {
	try {
		const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
		strokes = kept.map(({ width, points }) => ({ width, points: points.map(([x, y]) => [x, y]) }));
	} catch {
		strokes = []; // not what `keep` has written
	}
	for (const i of strokes.keys()) remember(strokes.slice(0, i));
	// Gradio hears of a new value only once the whole page is there; page.js tells when.
	if (strokes.length) document.addEventListener("zoo-ready", send, { once: true });
}

function sendSoon() {
	if (timer === null) timer = setTimeout(send, Math.max(0, sent + EVERY - performance.now()));
}

function place(event) {
	const box = canvas.getBoundingClientRect();
	return [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
}

function remember(drawing) {
	past.push(drawing);
	if (past.length > STEPS) past.shift();
}

function begin(...points) {
	remember(strokes);
	future.length = 0;
	current = { width: Number(brush.value), points: [points[0]] };
	strokes = [...strokes, current];
	for (const point of points) extend(...point);
	show();
	sendSoon();
}

function extend(x, y) {
	const [u, v] = current.points[current.points.length - 1];
	if (Math.hypot(x - u, y - v) < 1) return;
	if (strokes.reduce((sum, { points }) => sum + points.length, 0) >= MOST) return;
	// A pointer that is held outside the pad may go anywhere; half a side away from it, nothing changes on it.
	current.points.push([x, y].map((value) => Math.min(1.5 * SIDE, Math.max(-SIDE / 2, value))));
}

function down(event) {
	// A second finger or another mouse button draws nothing.
	if (pointer !== null || event.button !== 0) return;
	event.preventDefault();
	canvas.focus({ preventScroll: true, focusVisible: false });
	hold(event, place(event));
}

function hold(event, ...points) {
	canvas.setPointerCapture(event.pointerId);
	pointer = event.pointerId;
	penUp();
	begin(...points);
}
canvas.addEventListener("pointerdown", down);
margin.addEventListener("pointerdown", down); // just outside

// A mouse or a pen that was pressed farther outside draws from where it comes in. A finger there scrolls the page.
const CONTROLS = "a, button, input, label, select, textarea, summary, [role=tab], [contenteditable], img, video";
let outside = null; // where it was last
document.addEventListener("pointerdown", (event) => {
	const free = event.isPrimary && event.button === 0 && event.pointerType !== "touch" && !event.target.closest?.(CONTROLS);
	outside = free && element.isConnected && !element.contains(event.target) ? place(event) : null;
});
document.addEventListener("pointermove", (event) => {
	if (outside === null) return;
	if (!(event.buttons & 1)) outside = null;
	else if (event.target !== canvas) outside = place(event);
});
canvas.addEventListener("pointerenter", (event) => {
	if (outside === null || pointer !== null || !(event.buttons & 1)) return;
	const from = outside;
	outside = null;
	getSelection()?.removeAllRanges();
	hold(event, from, place(event));
});

canvas.addEventListener("pointermove", (event) => {
	if (event.pointerId !== pointer) return;
	const events = event.getCoalescedEvents?.() ?? [];
	for (const one of events.length ? events : [event]) extend(...place(one));
	show();
	sendSoon();
});

function end(event) {
	if (event.pointerId !== pointer) return;
	pointer = current = null;
	send();
}
canvas.addEventListener("pointerup", end);
canvas.addEventListener("pointercancel", end);

function turnTo(drawing) {
	pointer = current = null; // ends the current stroke too
	penUp();
	strokes = drawing;
	show();
	send();
}

function takeBack() {
	if (past.length === 0) return;
	future.push(strokes);
	turnTo(past.pop());
}

function bringBack() {
	if (future.length === 0) return;
	remember(strokes);
	turnTo(future.pop());
}

function takeAll() {
	if (strokes.length === 0) return;
	remember(strokes);
	future.length = 0;
	turnTo([]);
}
undo.addEventListener("click", takeBack);
redo.addEventListener("click", bringBack);
clear.addEventListener("click", takeAll);

function penUp() {
	pen.down = false;
	showPen();
}

function showPen() {
	cursor.style.left = `${(100 * pen.x) / SIDE}%`;
	cursor.style.top = `${(100 * pen.y) / SIDE}%`;
	cursor.classList.toggle("down", pen.down);
}

const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
	if (event.key in moves && !event.altKey && !event.metaKey) {
		const step = event.shiftKey ? STEP / 4 : STEP;
		const [dx, dy] = moves[event.key];
		pen.x = Math.min(SIDE, Math.max(0, pen.x + dx * step));
		pen.y = Math.min(SIDE, Math.max(0, pen.y + dy * step));
		if (pen.down) {
			extend(pen.x, pen.y);
			show();
			sendSoon();
		}
		showPen();
	} else if (event.key === " ") {
		if (pen.down) send();
		pen.down = !pen.down && pointer === null; // one stroke at a time
		if (pen.down) begin([pen.x, pen.y]);
		showPen();
	} else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
		if (event.shiftKey) bringBack();
		else takeBack();
	} else if (event.key.toLowerCase() === "y" && (event.ctrlKey || event.metaKey)) {
		bringBack();
	} else if (event.key === "Delete" || event.key === "Escape") {
		takeAll();
	} else {
		return;
	}
	event.preventDefault();
});

// Ink and paper follow the theme, also in what is already drawn.
new MutationObserver(show).observe(document.body, { attributes: true, attributeFilter: ["class"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
restore();
show();
showPen();
canvas.setAttribute("aria-busy", "false");
