// Makes uploads with the clients that are part of Java 17. Reads lines of client, URL,
// app and size, with tabs between them, and writes one line for each: the status and
// the body of the answer, or the exception. The argument is the file of a certificate
// to be trusted.

import java.io.*;
import java.net.*;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.*;
import javax.net.ssl.*;

class Calls {
	static final String HEAD = "--b7f3a9c\r\nContent-Disposition: form-data; name=\"media\"; filename=\"photo.jpg\"\r\n\r\n";
	static final String TAIL = "\r\n--b7f3a9c--\r\n";

	static SSLContext trusting;
	static final Map<String, HttpClient> clients = new HashMap<>();

	public static void main(String[] args) throws Exception {
		trusting = trust(Path.of(args[0]));
		HttpsURLConnection.setDefaultSSLSocketFactory(trusting.getSocketFactory());
		var in = new BufferedReader(new InputStreamReader(System.in));
		for (String line; (line = in.readLine()) != null; ) {
			var call = line.split("\t");
			String answer;
			try {
				byte[] form = form(Integer.parseInt(call[3]));
				answer = call[0].startsWith("HttpClient") ? byClient(call, form) : byConnection(call, form);
			} catch (Exception e) {
				answer = e.toString();
			}
			System.out.println(answer.replaceAll("[\\r\\n]", " "));
		}
	}

	static byte[] form(int size) {
		var out = new ByteArrayOutputStream();
		byte[] picture = new byte[size];
		picture[0] = (byte) 0xff;
		picture[1] = (byte) 0xd8;
		picture[2] = (byte) 0xff;
		out.writeBytes(HEAD.getBytes(StandardCharsets.US_ASCII));
		out.writeBytes(picture);
		out.writeBytes(TAIL.getBytes(StandardCharsets.US_ASCII));
		return out.toByteArray();
	}

	static String byClient(String[] call, byte[] form) throws Exception {
		var version = call[0].endsWith("/2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
		var client = clients.computeIfAbsent(call[0], c -> HttpClient.newBuilder().sslContext(trusting).version(version).build());
		var request = HttpRequest.newBuilder(URI.create(call[1])).timeout(Duration.ofSeconds(40))
			.header("Content-Type", "multipart/form-data; boundary=b7f3a9c").header("X-App", call[2])
			.POST(BodyPublishers.ofByteArray(form)).build();
		var answer = client.send(request, BodyHandlers.ofString());
		if (call[1].startsWith("https:") && answer.version() != version) {
			return "answered over " + answer.version();
		}
		return answer.statusCode() + " " + answer.body();
	}

	static String byConnection(String[] call, byte[] form) throws Exception {
		var connection = (HttpURLConnection) new URL(call[1]).openConnection();
		connection.setReadTimeout(40_000);
		connection.setDoOutput(true);
		connection.setRequestProperty("Content-Type", "multipart/form-data; boundary=b7f3a9c");
		connection.setRequestProperty("X-App", call[2]);
		if (call[0].endsWith("streaming")) {
			connection.setFixedLengthStreamingMode(form.length);
		}
		try (var out = connection.getOutputStream()) {
			out.write(form);
		}
		int status = connection.getResponseCode();
		try (var in = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
			return status + " " + new String(in.readAllBytes(), StandardCharsets.UTF_8);
		}
	}

	static SSLContext trust(Path file) throws Exception {
		var store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null, null);
		try (var in = Files.newInputStream(file)) {
			store.setCertificateEntry("gateway", CertificateFactory.getInstance("X.509").generateCertificate(in));
		}
		var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		managers.init(store);
		var context = SSLContext.getInstance("TLS");
		context.init(null, managers.getTrustManagers(), null);
		return context;
	}
}
