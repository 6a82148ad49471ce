// The squares that one moves over an image. Runs once, when the page has loaded.
() => {
	const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
	const within = (value, low, high) => Math.max(low, Math.min(high, value));
	// Tells the server, once the square rests, through the component that listens at `target`.
	let told = 0;
	function tell(target, name, numbers) {
		clearTimeout(told);
		const detail = numbers.map((one) => one.toFixed(4)).join();
		told = setTimeout(() => target.dispatchEvent(new CustomEvent(name, { detail })), 60);
	}

	// The square that covers a part of the image. `spot` is its middle, in shares of the image.
	const spot = { x: 0.5, y: 0.5 };
	function coverAt(figure, x, y) {
		spot.x = within(x, 0, 1);
		spot.y = within(y, 0, 1);
		figure.style.setProperty("--x", spot.x);
		figure.style.setProperty("--y", spot.y);
		figure.classList.add("covering");
		tell(document, "zoo-cover", [spot.x, spot.y]);
	}
	for (const kind of ["pointerdown", "pointermove"]) {
		document.addEventListener(kind, (event) => {
			const figure = event.target.closest?.(".cover");
			if (!figure || (kind === "pointermove" && !event.buttons)) return;
			event.preventDefault();
			const box = figure.querySelector("img").getBoundingClientRect();
			coverAt(figure, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
		});
	}
	document.addEventListener("keydown", (event) => {
		if (!event.target.matches?.(".cover") || !steps[event.key]) return;
		event.preventDefault();
		coverAt(event.target, spot.x + steps[event.key][0] / 16, spot.y + steps[event.key][1] / 16);
	});

	// The square that crops a photo. It lies in a frame over the photo, and is measured in the frame's pixels.
	const LEAST = 0.05; // of the photo's shorter side, as in serve/images/crop.py; but enough pixels to be taken hold of
	const LEAST_PIXELS = 24;
	const find = (crop, selector) => crop.querySelector(selector);
	const squares = new WeakMap(); // left, top and side as shares of the frame's width, height and shorter side
	function size(crop) {
		const { width, height } = find(crop, ".crop-frame").getBoundingClientRect();
		const short = Math.min(width, height);
		return { width, height, short, least: Math.max(LEAST * short, Math.min(short, LEAST_PIXELS)) };
	}
	function here(crop) {
		const { width, height, short } = size(crop);
		const { left, top, side } = squares.get(crop);
		return { left: left * width, top: top * height, side: side * short };
	}
	function cropTo(crop, left, top, side) {
		const { width, height, short, least } = size(crop);
		side = within(side, least, short);
		left = within(left, 0, width - side);
		top = within(top, 0, height - side);
		squares.set(crop, { left: left / width, top: top / height, side: side / short });
		const sides = { left: left / width, top: top / height, right: (left + side) / width, bottom: (top + side) / height };
		for (const [name, share] of Object.entries(sides)) find(crop, ".crop-frame").style.setProperty(`--${name}`, `${100 * share}%`);
		tell(crop, "zoo-crop", [left / width, top / height, side / short]);
	}
	function open(crop, opened) {
		find(crop, ".crop-square").hidden = find(crop, "[data-do=reset]").hidden = !opened;
		find(crop, "[data-do=crop]").hidden = opened;
	}
	function reset(crop) {
		open(crop, false);
		find(crop, "[data-do=crop]").focus();
		tell(crop, "zoo-crop", []);
	}
	document.addEventListener("zoo-uncrop", (event) => {
		if (find(event.target, ".crop-square").hidden) return;
		clearTimeout(told);
		open(event.target, false);
	});
	document.addEventListener("click", (event) => {
		const crop = event.target.closest?.(".crop");
		const what = crop && event.target.dataset.do;
		if (what === "reset") reset(crop);
		if (what !== "crop") return;
		const { width, height, short } = size(crop);
		open(crop, true);
		cropTo(crop, (width - 0.6 * short) / 2, (height - 0.6 * short) / 2, 0.6 * short);
		find(crop, ".crop-square").focus({ preventScroll: true });
		find(crop, ".crop-frame").scrollIntoView({ block: "nearest" });
	});

	let held = null; // where the square was taken hold of; `corner` is 0 to 3 in the order of rows, or -1 to move it all
	document.addEventListener("pointerdown", (event) => {
		const square = event.target.closest?.(".crop-square");
		if (!square || held || event.button) return;
		event.preventDefault();
		square.setPointerCapture(event.pointerId);
		square.focus({ preventScroll: true, focusVisible: false });
		const crop = square.closest(".crop");
		const corner = [...square.children].indexOf(event.target);
		held = { id: event.pointerId, crop, corner, x: event.clientX, y: event.clientY, ...here(crop) };
	});
	document.addEventListener("pointermove", (event) => {
		if (event.pointerId !== held?.id) return;
		const { crop, corner, left, top, side } = held;
		const [x, y] = [event.clientX - held.x, event.clientY - held.y];
		if (corner < 0) return cropTo(crop, left + x, top + y, side);
		// The opposite corner stays where it is.
		const { width, height, least } = size(crop);
		const [east, south] = [corner % 2, corner > 1];
		const most = Math.min(east ? width - left : left + side, south ? height - top : top + side);
		const next = within(side + Math.max(east ? x : -x, south ? y : -y), least, most);
		cropTo(crop, east ? left : left + side - next, south ? top : top + side - next, next);
	});
	for (const kind of ["pointerup", "pointercancel"]) {
		document.addEventListener(kind, (event) => {
			if (event.pointerId === held?.id) held = null;
		});
	}
	document.addEventListener("keydown", (event) => {
		const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
		const crop = event.target.matches?.(".crop-square") && !ctrlKey && !metaKey && !altKey && event.target.closest(".crop");
		const [x, y] = steps[key] ?? [0, 0];
		const grow = { "+": 1, "=": 1, "-": -1, _: -1 }[key] ?? (shiftKey ? x + y : 0);
		if (!crop || !(grow || steps[key] || key === "Delete" || key === "Escape")) return;
		event.preventDefault();
		if (!grow && !steps[key]) return reset(crop);
		const { left, top, side } = here(crop);
		const step = Math.max(2, size(crop).short / 50);
		if (grow) cropTo(crop, left - (grow * step) / 2, top - (grow * step) / 2, side + grow * step);
		else cropTo(crop, left + x * step, top + y * step, side);
	});

	// The outline of the sheet that was read. Its corners are shares of the photo.
	function outline() {
		const crop = document.querySelector("#digit-crop .crop");
		if (!crop || crop.hidden) return;
		const { corners = "" } = document.querySelector("#digit-answer [data-corners]")?.dataset ?? {};
		find(crop, "polygon").setAttribute("points", corners);
	}
	new MutationObserver(outline).observe(document.body, { childList: true, subtree: true });

	// The frame lies where the photo does, which the browser fits into its box.
	function place(photo) {
		const crop = photo.closest(".give")?.querySelector(".crop");
		if (!crop) return;
		const image = [...photo.querySelectorAll(".image-frame img")].find((one) => one.naturalWidth && one.clientWidth);
		crop.hidden = !image;
		if (!image) return;
		const box = image.getBoundingClientRect();
		const from = crop.getBoundingClientRect();
		const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
		const [width, height] = [scale * image.naturalWidth, scale * image.naturalHeight];
		Object.assign(find(crop, ".crop-frame").style, {
			left: `${box.left - from.left + (box.width - width) / 2}px`,
			top: `${box.top - from.top + (box.height - height) / 2}px`,
			width: `${width}px`,
			height: `${height}px`,
		});
		outline();
	}
	// Also when a photo is removed or its tab is opened, and when a message appears below it.
	const watcher = new ResizeObserver((entries) => {
		for (const { target } of entries) {
			const column = target.closest(".give") ?? document;
			for (const photo of column.querySelectorAll(".photo")) place(photo);
		}
	});
	document.addEventListener(
		"load",
		(event) => {
			const photo = event.target.matches?.(".image-frame img") && event.target.closest(".give .photo");
			if (!photo) return;
			place(photo);
			watcher.observe(event.target);
			watcher.observe(photo.closest(".give"));
		},
		true,
	);
}
