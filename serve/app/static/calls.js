// What happens while a call is under way, and when it fails. In the page's head, before Gradio's own scripts.
// A call that fails for a while (no connection, a restart, an overload) is sent again until it succeeds; Gradio sees the
// success alone. Meanwhile the answer's place says so: an old answer never stays beside a new drawing.
(() => {
	const PASSING = [429, 502, 503, 504];
	const FIRST_WAIT = 500; // ms until the first repetition; it doubles each time
	const LONGEST_WAIT = 5000;
	const PATIENCE = 400; // ms until an old answer fades while the new one is on its way
	const ANSWERS = "#digit-answer, #picture-answer, #image-answer, #comparison, #study, #published, #fool, #inside .place";
	const send = window.fetch.bind(window);
	let calls = 0;

	const places = () => [...document.querySelectorAll(ANSWERS)].filter((one) => one.checkVisibility());

	function say(text) {
		for (const place of places()) {
			place.classList.add("failed");
			let note = place.querySelector(":scope > .failure");
			if (!note) {
				note = document.createElement("p");
				note.className = "failure";
				note.setAttribute("role", "status");
				place.prepend(note);
			}
			note.textContent = text;
		}
	}

	function succeed() {
		for (const place of document.querySelectorAll(".failed")) {
			place.classList.remove("failed");
			place.querySelector(":scope > .failure")?.remove();
		}
	}

	const again = (ms) =>
		new Promise((resolve) => {
			const timer = setTimeout(resolve, ms);
			addEventListener("online", () => (clearTimeout(timer), resolve()), { once: true });
		});

	async function reason(response) {
		try {
			return (await response.clone().json()).error;
		} catch {
			return `status ${response.status}`;
		}
	}

	async function call(input, init) {
		for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
			let response;
			try {
				response = await send(input, init);
			} catch (error) {
				if (init.signal?.aborted) throw error;
			}
			if (response && !PASSING.includes(response.status)) {
				if (response.ok) succeed();
				else say(`There is no answer: ${await reason(response)}. If it stays so, reload the page.`);
				return response;
			}
			say(
				response
					? `The server is busy: ${await reason(response)}. Asking again …`
					: "The server cannot be reached. Trying again …",
			);
			await again(wait);
		}
	}

	// Gradio counts the seconds of what is under way at each frame. Where the display is taken off the page meanwhile, as
	// that of its own start always is, it counts for ever: a tenth of a core for as long as the page is open. So it is
	// stopped while no call is under way, when there is nothing to count.
	const SECONDS = /\(performance\.now\(\)-[\w$]+\([\w$]+\)\)\/1e3/;
	const frame = window.requestAnimationFrame.bind(window);
	window.requestAnimationFrame = (draw) => (calls === 0 && SECONDS.test(draw) ? 0 : frame(draw));

	window.fetch = async (input, init) => {
		const url = String(input?.url ?? input);
		if (init?.method !== "POST" || !/\/gradio_api\/(run|upload)\b/.test(url)) return send(input, init);
		const fade = setTimeout(() => places().forEach((one) => one.classList.add("waiting")), PATIENCE);
		calls++;
		try {
			return await call(input, init);
		} finally {
			clearTimeout(fade);
			if (--calls === 0) document.querySelectorAll(".waiting").forEach((one) => one.classList.remove("waiting"));
		}
	};
})();
