// Additions to Gradio's page. Runs once, when the page has loaded.
() => {
	// Example buttons hold an image and no text: name them for screen readers after the image's file.
	const name = () => {
		for (const button of document.querySelectorAll(".gallery-item:not([aria-label])")) {
			const file = button.querySelector("img")?.src.split("/").pop();
			if (!file) continue; // the image has not loaded yet
			button.setAttribute("aria-label", `Example: ${file.replace(/\.\w+$/, "").replaceAll("-", " ")}`);
		}
		// Gradio leaves these without a name, and others with a name that it forgot to translate.
		for (const input of document.querySelectorAll(".photo input[type=file]:not([aria-label])")) {
			input.setAttribute("aria-label", "File");
		}
		for (const one of document.querySelectorAll('[aria-label="common.complete"]')) one.removeAttribute("aria-label");
		// What scrolls sideways must take the keyboard, and an empty cell heads nothing.
		for (const one of document.querySelectorAll("#card :is(table, pre):not([tabindex])")) one.tabIndex = 0;
		for (const one of document.querySelectorAll("#card th:empty")) one.replaceWith(document.createElement("td"));
	};
	new MutationObserver(name).observe(document.body, {
		attributeFilter: ["src", "aria-label"],
		childList: true,
		subtree: true,
	});
	name();

	// A message beside the box for a photo that is shown, until the box is used again.
	const box = () => [...document.querySelectorAll(".photo")].find((one) => one.checkVisibility());
	function notice(text) {
		const at = box();
		if (!at) return;
		at.parentElement.querySelector(".notice")?.remove();
		const note = document.createElement("p");
		note.className = "notice";
		note.setAttribute("role", "alert");
		note.textContent = text;
		at.after(note);
		at.addEventListener("click", () => note.remove(), { once: true, capture: true });
	}

	// Gradio's button reads the clipboard, which browsers allow on https and localhost only. Ctrl+V works everywhere:
	// the pasted file is treated as an upload.
	const NO_PASTE = "The browser does not let this page read the clipboard. Press Ctrl+V (or ⌘V) instead.";
	document.addEventListener("paste", (event) => {
		const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
		const input = box()?.querySelector("input[type=file]");
		if (!input) return;
		if (!file) return notice("The clipboard holds no picture.");
		event.preventDefault();
		upload(input, file);
	});
	// Browsers other than Safari do not know what iPhones save, and Gradio takes images alone.
	const upload = (input, file) => {
		const files = new DataTransfer();
		files.items.add(file);
		input.files = files.files;
		input.dispatchEvent(new Event("change", { bubbles: true }));
	};
	const named = (file) => (/\.hei[cf]$/i.test(file?.name) && !file.type ? new File([file], file.name, { type: "image/heic" }) : null);
	for (const kind of ["change", "drop"]) {
		document.addEventListener(
			kind,
			(event) => {
				const at = event.target.closest?.(".photo");
				const held = kind === "drop" ? event.dataTransfer?.files : event.target.files;
				const file = at && named(held?.[0]);
				if (!file) return;
				event.preventDefault();
				event.stopImmediatePropagation();
				upload(at.querySelector("input[type=file]"), file);
			},
			true,
		);
	}

	const clipboard = navigator.clipboard;
	if (clipboard?.read) {
		const read = clipboard.read.bind(clipboard);
		clipboard.read = async (...options) => {
			try {
				const items = await read(...options);
				if (!items.some((item) => item.types.some((type) => type.startsWith("image/"))))
					notice("The clipboard holds no picture.");
				return items;
			} catch {
				notice(NO_PASTE);
				return [];
			}
		};
	}

	const CAMERA = {
		NotAllowedError: "The browser does not let this page use the camera. Allow it in the address bar, or choose a file.",
		NotFoundError: "No camera was found. Choose a file instead.",
		NotReadableError: "The camera is in use by another program. Close that, or choose a file.",
	};
	const devices = navigator.mediaDevices;
	if (devices) {
		const get = devices.getUserMedia.bind(devices);
		devices.getUserMedia = async (wanted) => {
			try {
				return await get(wanted);
			} catch (error) {
				notice(CAMERA[error.name] ?? "The camera does not start. Choose a file instead.");
				throw error;
			}
		};
	}
	document.addEventListener(
		"click",
		(event) => {
			const button = event.target.closest?.(".photo button");
			const label = button?.getAttribute("aria-label") ?? button?.textContent ?? "";
			if (/clipboard/i.test(label) && !clipboard?.read) setTimeout(notice, 0, NO_PASTE);
			if (/camera|webcam/i.test(label) && !devices)
				setTimeout(notice, 0, "Browsers offer the camera to pages on https and localhost alone. Choose a file instead.");
		},
		true,
	);

	// Addresses: #tab or #tab/model. Each tab that is opened is an entry of the history, so Back returns to the last one.
	const bar = document.querySelector("[role=tablist]");
	const tabs = () => [...bar.querySelectorAll("[role=tab]")];
	const slug = (tab) => tab.textContent.trim().toLowerCase();
	const here = () => location.hash.slice(1).split("/")[0];
	function open(wanted) {
		const tab = tabs().find((one) => slug(one) === wanted) ?? tabs()[0];
		if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
	}
	let following = false;
	bar.addEventListener("click", (event) => {
		const tab = event.target.closest("[role=tab]");
		if (tab && !following && slug(tab) !== (here() || slug(tabs()[0]))) history.pushState(null, "", `#${slug(tab)}`);
	});
	const follow = () => {
		following = true;
		open(here());
		following = false;
	};
	addEventListener("popstate", follow);
	window.zoo = {
		ready: () => {
			follow();
			document.dispatchEvent(new Event("zoo-ready"));
		},
		choose: (model) => {
			const tab = tabs().find((one) => one.getAttribute("aria-selected") === "true");
			if (tab) history.replaceState(null, "", `#${slug(tab)}/${model}`);
		},
	};

	// Arrow keys move between tabs, as in other programs.
	document.addEventListener("keydown", (event) => {
		const tab = event.target.closest?.("[role=tab]");
		const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
		if (!tab || !(step || event.key === "Home" || event.key === "End")) return;
		const all = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]:not([disabled])")];
		const last = all.length - 1;
		const next = event.key === "Home" ? 0 : event.key === "End" ? last : (all.indexOf(tab) + step + all.length) % all.length;
		event.preventDefault();
		all[next].focus();
		all[next].click();
	});

	// The slider between a picture and its heat map.
	document.addEventListener("input", (event) => {
		if (event.target.matches?.(".blend input"))
			event.target.closest(".heat").style.setProperty("--heat", event.target.value / 100);
	});

	// The call in "How this works" is one that this server accepts.
	const origin = document.querySelector(".about .origin");
	if (origin) origin.textContent = new URL(".", document.baseURI).href;
	fetch("v2/repository/index", { method: "POST" })
		.then((response) => response.json())
		.then((models) => {
			const ready = models.find((one) => one.state === "READY")?.name;
			document.querySelector(".about .a-model").textContent = ready ?? "MODEL";
		})
		.catch(() => {});

	// The card of a drawing on which the networks disagree: what was drawn, what they saw, what they said.
	document.addEventListener("click", (event) => {
		if (!event.target.matches?.(".save-card")) return;
		const place = event.target.closest("#digit-answer");
		const card = document.createElement("canvas");
		card.width = 1200;
		card.height = 630;
		const draw = card.getContext("2d");
		const write = (text, x, y, size, colour = "#f8fafc", weight = 400) => {
			draw.font = `${weight} ${size}px system-ui, sans-serif`;
			draw.fillStyle = colour;
			draw.fillText(text, x, y);
		};
		draw.fillStyle = "#0f172a";
		draw.fillRect(0, 0, 1200, 630);
		const seen = place.querySelector("figure img");
		const pad = document.querySelector("#pad canvas");
		draw.drawImage(pad?.checkVisibility() ? pad : seen, 60, 130, 380, 380);
		draw.imageSmoothingEnabled = false;
		draw.drawImage(seen, 470, 370, 140, 140);
		write("I fooled the networks", 60, 84, 46, "#f8fafc", 700);
		write("what they see", 470, 545, 20, "#cbd5e1");
		[...place.querySelectorAll(".judges li")].forEach((judge, i) => {
			const y = 160 + 62 * i;
			write(judge.querySelector("strong").textContent, 660, y, 44, "#93c5fd", 700);
			write(judge.querySelector("span").textContent, 800, y - 14, 24);
			write(judge.querySelector("small").textContent, 800, y + 12, 18, "#cbd5e1");
		});
		write("Deep Image Zoo", 60, 590, 24, "#93c5fd", 600);
		const link = document.createElement("a");
		link.download = "fooled.png";
		link.href = card.toDataURL("image/png");
		link.click();
	});
}
