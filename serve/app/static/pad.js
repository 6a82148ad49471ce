// The drawing pad. Runs once, when the component appears; `element`, `props` and `trigger` come from gr.HTML.
// Strokes are kept as points, to be redrawn after undo or a change of theme. `props.value` is a PNG as a data URL,
// or "" while the pad is blank.

const SIDE = 280; // pixels of the drawing, whatever its size on the screen
const EVERY = 120; // ms between two drawings sent while a stroke goes on
const STEP = 8; // pixels that an arrow key moves the pen

const canvas = element.querySelector("canvas");
const cursor = element.querySelector(".pad-cursor");
const hint = element.querySelector(".pad-hint");
const brush = element.querySelector("input[type=range]");
const undo = element.querySelector("[data-do=undo]");
const clear = element.querySelector("[data-do=clear]");
const KEPT = "drawing"; // the key in this tab's storage, so that a reload keeps what was drawn
const strokes = [];
let cleared = []; // what Clear has removed, until the next stroke
let current = null;
let pointer = null;
const pen = { x: SIDE / 2, y: SIDE / 2, down: false };
let sent = 0;
let timer = null;

const scale = Math.max(1, Math.min(3, window.devicePixelRatio || 1));
canvas.width = canvas.height = Math.round(SIDE * scale);

function paint(target, factor) {
	const context = target.getContext("2d");
	const style = getComputedStyle(canvas);
	context.setTransform(factor, 0, 0, factor, 0, 0);
	context.fillStyle = style.backgroundColor;
	context.fillRect(0, 0, SIDE, SIDE);
	context.strokeStyle = context.fillStyle = style.color;
	context.lineCap = context.lineJoin = "round";
	for (const { width, points } of strokes) {
		context.lineWidth = width;
		context.beginPath();
		context.moveTo(...points[0]);
		// Curves through the midpoints: a quick stroke has few points, and straight lines would show corners.
		for (let i = 1; i < points.length - 1; i++) {
			const [x, y] = points[i];
			const [u, v] = points[i + 1];
			context.quadraticCurveTo(x, y, (x + u) / 2, (y + v) / 2);
		}
		context.lineTo(...points[points.length - 1]);
		context.stroke();
	}
}

function show() {
	paint(canvas, canvas.width / SIDE);
	hint.hidden = strokes.length > 0;
	clear.disabled = strokes.length === 0;
	undo.disabled = strokes.length + cleared.length === 0;
}

function send() {
	clearTimeout(timer);
	timer = null;
	sent = performance.now();
	keep();
	if (strokes.length === 0) {
		props.value = "";
		return;
	}
	const image = document.createElement("canvas");
	image.width = image.height = SIDE;
	paint(image, 1);
	props.value = image.toDataURL("image/png");
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
		for (const { width, points } of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
			if (width > 0 && points.length) strokes.push({ width, points });
		}
	} catch {
		strokes.length = 0; // not what `keep` has written
	}
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

function begin(x, y) {
	current = { width: Number(brush.value), points: [[x, y]] };
	strokes.push(current);
	cleared = [];
	show();
	sendSoon();
}

function extend(x, y) {
	const [u, v] = current.points[current.points.length - 1];
	if (Math.hypot(x - u, y - v) < 1) return;
	current.points.push([x, y]);
}

canvas.addEventListener("pointerdown", (event) => {
	// A second finger or another mouse button draws nothing.
	if (pointer !== null || event.button !== 0) return;
	event.preventDefault();
	canvas.focus({ preventScroll: true, focusVisible: false });
	canvas.setPointerCapture(event.pointerId);
	pointer = event.pointerId;
	penUp();
	begin(...place(event));
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

function takeBack() {
	pointer = current = null; // ends the current stroke too
	penUp();
	if (strokes.length) strokes.pop();
	else strokes.push(...cleared.splice(0));
	show();
	send();
}

function takeAll() {
	pointer = current = null;
	penUp();
	if (strokes.length) cleared = strokes.splice(0);
	show();
	send();
}
undo.addEventListener("click", takeBack);
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
		if (pen.down) begin(pen.x, pen.y);
		showPen();
	} else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
		takeBack();
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
