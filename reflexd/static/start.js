// Nothing is inline in the page, so that its Content-Security-Policy needs no exception.
// validatorUrl: null, because the default would send the description's address to another host.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#description",
  deepLinking: true,
  validatorUrl: null,
});
